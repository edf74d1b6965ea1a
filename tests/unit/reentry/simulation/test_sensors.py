"""What each knob of the sensors does, alone."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pymap3d
import pytest

from reentry.errors import ConfigError
from reentry.schema import ALTITUDE
from reentry.simulation import SEVERITIES, SensorConfig, earth, of_severity
from reentry.simulation.sensors import Sightings, Truth, observe

Float64 = npt.NDArray[np.float64]

FLIGHTS, ROWS, STEP = 60, 400, 1.0
EXACT = SensorConfig()


def truth() -> Truth:
    """Arcs over the Earth, 400 rows each."""
    shot = np.repeat(np.arange(FLIGHTS), ROWS)
    time = np.tile(np.arange(ROWS) * STEP, FLIGHTS)
    rate = 1e-3
    angle = rate * time + shot
    away = earth.EQUATOR + 3e5 * np.sin(np.pi * time / ROWS / STEP)
    lean = 0.01 * (shot + 1)
    place = np.stack([np.cos(angle), np.sin(angle) * np.cos(lean), np.sin(angle) * np.sin(lean)])
    ahead = np.stack([-np.sin(angle), np.cos(angle) * np.cos(lean), np.cos(angle) * np.sin(lean)])
    climb = 3e5 * np.pi / ROWS / STEP * np.cos(np.pi * time / ROWS / STEP)
    return Truth(
        shot=shot,
        time=time,
        position=away * place,
        velocity=away * rate * ahead + climb * place,
        brightness=np.ones(len(shot)),
        reentry_phase=(time >= 300).astype(np.int8),
    )


TRUTH = truth()


def seen(seed: int = 0, **knobs: object) -> Sightings:
    return observe(TRUTH, replace(EXACT, **knobs), step=STEP, random=np.random.default_rng(seed))


def places(sightings: Sightings) -> Float64:
    """(3, M), m, ECEF."""
    return np.stack(pymap3d.geodetic2ecef(sightings.latitude, sightings.longitude, sightings.altitude))


def errors(sightings: Sightings) -> Float64:
    """(3, M), m, of sightings none of which is lost, moved or repeated."""
    assert len(sightings.time) == len(TRUTH.time)
    return places(sightings) - TRUTH.position


def test_severity_0_is_the_truth_seen_by_one_sensor() -> None:
    sightings = seen()
    latitude, longitude, altitude = pymap3d.ecef2geodetic(*TRUTH.position)
    np.testing.assert_array_equal(sightings.shot, TRUTH.shot)
    np.testing.assert_array_equal(sightings.time, TRUTH.time)
    np.testing.assert_allclose(sightings.latitude, latitude, atol=1e-12)
    np.testing.assert_allclose(sightings.longitude, longitude, atol=1e-12)
    np.testing.assert_allclose(sightings.altitude, altitude, atol=1e-3)
    np.testing.assert_array_equal(sightings.reentry_phase, TRUTH.reentry_phase)
    for shot in range(FLIGHTS):
        assert len(set(sightings.sensor[sightings.shot == shot])) == 1
    assert SEVERITIES[0] == EXACT


def test_the_intensity_falls_with_the_square_of_the_distance_to_a_fixed_satellite() -> None:
    sightings = seen()
    for shot in range(5):
        rows = sightings.shot == shot
        place, distance = TRUTH.position[:, rows].T, 1e6 / np.sqrt(sightings.intensity[rows])
        # |place - satellite|^2 = distance^2, less the same of the first row, is linear in the satellite's place.
        left = 2.0 * (place[1:] - place[0])
        right = (place[1:] ** 2).sum(axis=1) - (place[0] ** 2).sum() - distance[1:] ** 2 + distance[0] ** 2
        satellite, *_ = np.linalg.lstsq(left, right, rcond=None)
        np.testing.assert_allclose(left @ satellite, right, atol=1e-6 * np.abs(right).max())
        assert 1.9e6 < distance.min() < distance.max() < 2.6e7


def test_handover_cuts_a_flight_among_its_sensors() -> None:
    sightings = seen(sensors=(2, 3))
    counts = []
    for shot in range(FLIGHTS):
        ids = sightings.sensor[sightings.shot == shot]
        turns = np.flatnonzero(np.diff(ids))
        assert len(set(ids)) == len(turns) + 1  # none comes back
        counts.append(len(set(ids)))
    assert set(counts) == {2, 3}
    np.testing.assert_allclose(errors(sightings), 0.0, atol=1e-3)


def test_noise_has_the_standard_deviation_drawn_for_the_sensor() -> None:
    off = errors(seen(position_noise=(20.0, 500.0))).reshape(3, FLIGHTS, ROWS)
    deviation = off.std(axis=(0, 2))
    assert 18.0 < deviation.min() < 40.0
    assert 300.0 < deviation.max() < 530.0
    assert np.abs(off.mean(axis=2)).max() < 5.0 * 500.0 / np.sqrt(ROWS)
    neighbours = np.corrcoef(off[0, :, 1:].ravel(), off[0, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.03


def test_a_bias_is_the_same_all_through_a_sensor_s_part_of_a_flight() -> None:
    sightings = seen(position_bias=100.0, sensors=(1, 3))
    off = errors(sightings)
    changes = np.linalg.norm(np.diff(off, axis=1), axis=0) > 1e-3
    handed_over = (np.diff(sightings.sensor) != 0) | (np.diff(sightings.shot) != 0)
    np.testing.assert_array_equal(changes, handed_over)
    firsts = np.flatnonzero(np.append(True, handed_over))
    assert off[:, firsts].std() == pytest.approx(100.0, rel=0.2)


def test_intensity_noise_is_in_proportion_and_never_below_zero() -> None:
    ratio = seen(intensity_noise=0.2).intensity / seen().intensity
    assert ratio.mean() == pytest.approx(1.0, abs=0.005)
    assert ratio.std() == pytest.approx(0.2, rel=0.03)
    assert seen(intensity_noise=1.0).intensity.min() == 0.0


def test_jitter_moves_the_instant_and_the_body_with_it() -> None:
    sightings = seen(jitter=0.2)
    late = sightings.time - TRUTH.time
    assert late.std() == pytest.approx(0.2 * STEP * 0.93, rel=0.05)  # 5 % are cut off
    assert np.abs(late).max() <= 0.4 * STEP + 1e-9
    assert (np.diff(sightings.time)[np.diff(sightings.shot) == 0] > 0.0).all()
    np.testing.assert_allclose(errors(sightings), late * TRUTH.velocity, atol=1e-3)


def test_missing_measurements_do_not_arrive() -> None:
    sightings = seen(missing=0.2)
    assert len(sightings.time) / len(TRUTH.time) == pytest.approx(0.8, abs=0.01)
    gaps = np.diff(sightings.time)[np.diff(sightings.shot) == 0]
    assert set(np.unique(gaps)) >= {1.0, 2.0, 3.0}
    first = np.flatnonzero(np.diff(sightings.shot, prepend=-1))
    np.testing.assert_array_equal(sightings.time[first], 0.0)
    np.testing.assert_array_equal(sightings.time[first + 1], STEP)


def test_a_burst_is_a_silence_of_its_length() -> None:
    sightings = seen(bursts=2.0, burst=(10.0, 20.0))
    gaps = np.diff(sightings.time)[np.diff(sightings.shot) == 0]
    silences = gaps[gaps > STEP]
    assert 0.6 * 2 * FLIGHTS < len(silences) < 1.2 * 2 * FLIGHTS
    assert np.median(silences) == pytest.approx(15.0, abs=3.0)
    assert len(silences[(silences >= 10.0) & (silences <= 21.0)]) > 0.8 * len(silences)


def test_outliers_are_far_off_and_few() -> None:
    sightings = seen(outliers=0.01)
    off = np.linalg.norm(errors(sightings), axis=0)
    assert (off > 1.0).mean() == pytest.approx(0.01, abs=0.003)
    assert np.median(off[off > 1.0]) == pytest.approx(30.0 * 20.0 * 1.54, rel=0.2)
    ratio = sightings.intensity / seen().intensity
    moved = np.abs(ratio - 1.0) > 0.05
    assert moved.mean() == pytest.approx(0.01, abs=0.003)
    assert ratio.max() > 10.0


def test_the_farthest_outliers_stay_in_the_range_of_a_table_of_tracks() -> None:
    altitude = seen(outliers=0.01, position_noise=(9e4, 9e4)).altitude
    assert (altitude.min(), ALTITUDE.low) == (-1e5, -1e5)
    assert altitude.max() > 1e6


def test_duplicates_are_the_same_row_again_a_little_later() -> None:
    sightings = seen(duplicates=0.05)
    assert len(sightings.time) / len(TRUTH.time) == pytest.approx(1.05, abs=0.005)
    rows = np.stack([sightings.shot, sightings.time, sightings.altitude, sightings.intensity], axis=1)
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    assert set(counts) == {1, 2}
    assert len(first) == len(TRUTH.time)
    np.testing.assert_allclose(errors_of(sightings, np.sort(first)), 0.0, atol=1e-3)


def errors_of(sightings: Sightings, rows: npt.NDArray[np.int64]) -> Float64:
    """(3, M), of chosen sightings, by their time."""
    number = sightings.shot[rows] * ROWS + np.rint(sightings.time[rows] / STEP).astype(np.int64)
    return places(sightings)[:, rows] - TRUTH.position[:, number]


def test_late_measurements_keep_their_time() -> None:
    sightings = seen(out_of_order=0.05)
    assert len(sightings.time) == len(TRUTH.time)
    back = (np.diff(sightings.time) < 0.0) & (np.diff(sightings.shot) == 0)
    assert 0.03 < back.mean() < 0.06
    assert np.diff(sightings.time)[back].min() >= -6.0 * STEP
    np.testing.assert_allclose(errors_of(sightings, np.arange(len(sightings.time))), 0.0, atol=1e-3)
    assert set(np.bincount(sightings.shot)) == {ROWS}


def test_clocks_differ_from_sensor_to_sensor_and_do_not_drift() -> None:
    sightings = seen(clock_offset=0.05, sensors=(2, 2))
    offset = sightings.time - TRUTH.time
    changes = np.abs(np.diff(offset)) > 1e-9
    handed_over = (np.diff(sightings.sensor) != 0) | (np.diff(sightings.shot) != 0)
    np.testing.assert_array_equal(changes, handed_over)
    assert offset[np.flatnonzero(np.append(True, handed_over))].std() == pytest.approx(0.05, rel=0.2)
    np.testing.assert_allclose(errors(sightings), 0.0, atol=1e-3)


def test_one_seed_gives_one_set_of_sightings() -> None:
    knobs = {"position_noise": (20.0, 50.0), "missing": 0.1}
    np.testing.assert_array_equal(seen(1, **knobs).altitude, seen(1, **knobs).altitude)
    assert not np.array_equal(seen(1, **knobs).altitude[:ROWS], seen(2, **knobs).altitude[:ROWS])


def test_each_severity_is_worse_than_the_one_before() -> None:
    for knob in ("position_bias", "intensity_noise", "jitter", "missing", "bursts", "outliers", "duplicates"):
        values = [getattr(config, knob) for config in SEVERITIES]
        assert values == sorted(set(values)), knob
    assert SEVERITIES[3].position_noise[1] == 500.0
    assert SEVERITIES[3].missing == 0.2
    assert SEVERITIES[3].outliers == 0.01


def test_a_knob_overrules_its_severity() -> None:
    assert of_severity(2, missing=0.0) == replace(SEVERITIES[2], missing=0.0)


@pytest.mark.parametrize("severity", [-1, 4])
def test_no_other_severity_is_there(severity: int) -> None:
    with pytest.raises(ConfigError, match=f"severity out of range; expected 0 to 3; got {severity}"):
        of_severity(severity)


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("sensors", (0, 1), "sensors out of range; expected 1 <= fewest <= most <= 32; got 0, 1"),
        ("sensors", (3, 2), "sensors out of range"),
        ("position_noise", (0.0, 10.0), "position_noise out of range"),
        ("position_bias", -1.0, "position_bias out of range; expected 0 to 1e5 m; got -1.0"),
        ("intensity_noise", 1.5, "intensity_noise out of range"),
        ("jitter", float("nan"), "jitter out of range; expected 0 to 1; got nan"),
        ("missing", 0.6, "missing out of range; expected a share, 0 to 0.5; got 0.6"),
        ("bursts", 101.0, "bursts out of range"),
        ("burst", (0.0, 5.0), "burst out of range; expected 0 < shortest <= longest <= 600 s; got 0, 5"),
        ("outliers", -0.1, "outliers out of range"),
        ("duplicates", 1.0, "duplicates out of range"),
        ("out_of_order", 1.0, "out_of_order out of range"),
        ("clock_offset", 61.0, "clock_offset out of range"),
        ("noise", 1.0, "no such knob; expected .*position_noise.*; got noise"),
    ],
)
def test_a_knob_out_of_its_range_is_named(knob: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        of_severity(0, **{knob: value})


def test_the_documented_severities_are_the_ones_that_are_set() -> None:
    lines = (Path(__file__).parents[4] / "docs" / "simulation.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| `\w+`, .*\d \|$", line)
    ]
    documented = {row[0].split("`")[1]: [[float(n) for n in cell.split(" to ")] for cell in row[1:]] for row in rows}
    assert set(documented) == {field.name for field in fields(SensorConfig)} - {"burst"}
    for knob, values in documented.items():
        for severity, value in enumerate(values):
            wanted = np.unique(getattr(SEVERITIES[severity], knob))
            assert value == wanted.tolist(), (knob, severity)
