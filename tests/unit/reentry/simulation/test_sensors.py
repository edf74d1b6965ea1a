"""Effect of each sensor setting, tested on its own."""

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
    """Return true flights on arcs over the Earth, with 400 rows each."""
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


def measure(seed: int = 0, **settings: object) -> Sightings:
    return observe(TRUTH, replace(EXACT, **settings), step=STEP, random=np.random.default_rng(seed))


def positions(sightings: Sightings) -> Float64:
    """Return the measured positions, (3, M), m, ECEF."""
    return np.stack(pymap3d.geodetic2ecef(sightings.latitude, sightings.longitude, sightings.altitude))


def errors(sightings: Sightings) -> Float64:
    """Return the position errors, (3, M), m, of measurements that are all present, unique and in order."""
    assert len(sightings.time) == len(TRUTH.time)
    return positions(sightings) - TRUTH.position


def test_severity_0_is_the_truth_measured_by_one_sensor() -> None:
    sightings = measure()
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
    sightings = measure()
    for shot in range(5):
        rows = sightings.shot == shot
        position, distance = TRUTH.position[:, rows].T, 1e6 / np.sqrt(sightings.intensity[rows])
        # Subtracting |position - satellite|^2 = distance^2 of the first row from that of the other rows gives equations
        # that are linear in the satellite position.
        left = 2.0 * (position[1:] - position[0])
        right = (position[1:] ** 2).sum(axis=1) - (position[0] ** 2).sum() - distance[1:] ** 2 + distance[0] ** 2
        satellite, *_ = np.linalg.lstsq(left, right, rcond=None)
        np.testing.assert_allclose(left @ satellite, right, atol=1e-6 * np.abs(right).max())
        assert 1.9e6 < distance.min() < distance.max() < 2.6e7


def test_handover_divides_a_flight_among_its_sensors() -> None:
    sightings = measure(sensors=(2, 3))
    counts = []
    for shot in range(FLIGHTS):
        ids = sightings.sensor[sightings.shot == shot]
        handovers = np.flatnonzero(np.diff(ids))
        assert len(set(ids)) == len(handovers) + 1  # no sensor measures a flight twice
        counts.append(len(set(ids)))
    assert set(counts) == {2, 3}
    np.testing.assert_allclose(errors(sightings), 0.0, atol=1e-3)


def test_noise_has_the_standard_deviation_drawn_for_the_sensor() -> None:
    off = errors(measure(position_noise=(20.0, 500.0))).reshape(3, FLIGHTS, ROWS)
    deviation = off.std(axis=(0, 2))
    assert 18.0 < deviation.min() < 40.0
    assert 300.0 < deviation.max() < 530.0
    assert np.abs(off.mean(axis=2)).max() < 5.0 * 500.0 / np.sqrt(ROWS)
    neighbours = np.corrcoef(off[0, :, 1:].ravel(), off[0, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.03


def test_a_position_bias_is_constant_while_one_sensor_measures_a_flight() -> None:
    sightings = measure(position_bias=100.0, sensors=(1, 3))
    off = errors(sightings)
    changes = np.linalg.norm(np.diff(off, axis=1), axis=0) > 1e-3
    handed_over = (np.diff(sightings.sensor) != 0) | (np.diff(sightings.shot) != 0)
    np.testing.assert_array_equal(changes, handed_over)
    firsts = np.flatnonzero(np.append(True, handed_over))
    assert off[:, firsts].std() == pytest.approx(100.0, rel=0.2)


def test_intensity_noise_is_proportional_to_the_intensity_and_never_makes_it_negative() -> None:
    ratio = measure(intensity_noise=0.2).intensity / measure().intensity
    assert ratio.mean() == pytest.approx(1.0, abs=0.005)
    assert ratio.std() == pytest.approx(0.2, rel=0.03)
    assert measure(intensity_noise=1.0).intensity.min() == 0.0


def test_jitter_shifts_the_time_and_the_position_together() -> None:
    sightings = measure(jitter=0.2)
    late = sightings.time - TRUTH.time
    assert late.std() == pytest.approx(0.2 * STEP * 0.93, rel=0.05)  # 5 % are truncated
    assert np.abs(late).max() <= 0.4 * STEP + 1e-9
    assert (np.diff(sightings.time)[np.diff(sightings.shot) == 0] > 0.0).all()
    np.testing.assert_allclose(errors(sightings), late * TRUTH.velocity, atol=1e-3)


def test_missing_measurements_do_not_arrive() -> None:
    sightings = measure(missing=0.2)
    assert len(sightings.time) / len(TRUTH.time) == pytest.approx(0.8, abs=0.01)
    gaps = np.diff(sightings.time)[np.diff(sightings.shot) == 0]
    assert set(np.unique(gaps)) >= {1.0, 2.0, 3.0}
    first = np.flatnonzero(np.diff(sightings.shot, prepend=-1))
    np.testing.assert_array_equal(sightings.time[first], 0.0)
    np.testing.assert_array_equal(sightings.time[first + 1], STEP)


def test_outages_have_the_configured_number_and_duration() -> None:
    sightings = measure(bursts=2.0, burst=(10.0, 20.0))
    gaps = np.diff(sightings.time)[np.diff(sightings.shot) == 0]
    silences = gaps[gaps > STEP]
    assert 0.6 * 2 * FLIGHTS < len(silences) < 1.2 * 2 * FLIGHTS
    assert np.median(silences) == pytest.approx(15.0, abs=3.0)
    assert len(silences[(silences >= 10.0) & (silences <= 21.0)]) > 0.8 * len(silences)


def test_outliers_are_rare_and_far_from_the_truth() -> None:
    sightings = measure(outliers=0.01)
    off = np.linalg.norm(errors(sightings), axis=0)
    assert (off > 1.0).mean() == pytest.approx(0.01, abs=0.003)
    assert np.median(off[off > 1.0]) == pytest.approx(30.0 * 20.0 * 1.54, rel=0.2)
    ratio = sightings.intensity / measure().intensity
    moved = np.abs(ratio - 1.0) > 0.05
    assert moved.mean() == pytest.approx(0.01, abs=0.003)
    assert ratio.max() > 10.0


def test_the_altitude_of_outliers_stays_within_the_range_of_its_column() -> None:
    altitude = measure(outliers=0.01, position_noise=(9e4, 9e4)).altitude
    assert (altitude.min(), ALTITUDE.low) == (-1e5, -1e5)
    assert altitude.max() > 1e6


def test_duplicates_repeat_a_row_unchanged() -> None:
    sightings = measure(duplicates=0.05)
    assert len(sightings.time) / len(TRUTH.time) == pytest.approx(1.05, abs=0.005)
    rows = np.stack([sightings.shot, sightings.time, sightings.altitude, sightings.intensity], axis=1)
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    assert set(counts) == {1, 2}
    assert len(first) == len(TRUTH.time)
    np.testing.assert_allclose(errors_of(sightings, np.sort(first)), 0.0, atol=1e-3)


def errors_of(sightings: Sightings, rows: npt.NDArray[np.int64]) -> Float64:
    """Return the position errors, (3, M), m, of the given rows, whose true rows are found by time."""
    number = sightings.shot[rows] * ROWS + np.rint(sightings.time[rows] / STEP).astype(np.int64)
    return positions(sightings)[:, rows] - TRUTH.position[:, number]


def test_late_measurements_keep_their_timestamps() -> None:
    sightings = measure(out_of_order=0.05)
    assert len(sightings.time) == len(TRUTH.time)
    back = (np.diff(sightings.time) < 0.0) & (np.diff(sightings.shot) == 0)
    assert 0.03 < back.mean() < 0.06
    assert np.diff(sightings.time)[back].min() >= -6.0 * STEP
    np.testing.assert_allclose(errors_of(sightings, np.arange(len(sightings.time))), 0.0, atol=1e-3)
    assert set(np.bincount(sightings.shot)) == {ROWS}


def test_clock_offsets_differ_between_sensors_and_are_constant() -> None:
    sightings = measure(clock_offset=0.05, sensors=(2, 2))
    offset = sightings.time - TRUTH.time
    changes = np.abs(np.diff(offset)) > 1e-9
    handed_over = (np.diff(sightings.sensor) != 0) | (np.diff(sightings.shot) != 0)
    np.testing.assert_array_equal(changes, handed_over)
    assert offset[np.flatnonzero(np.append(True, handed_over))].std() == pytest.approx(0.05, rel=0.2)
    np.testing.assert_allclose(errors(sightings), 0.0, atol=1e-3)


def test_only_the_same_seed_gives_the_same_measurements() -> None:
    settings = {"position_noise": (20.0, 50.0), "missing": 0.1}
    np.testing.assert_array_equal(measure(1, **settings).altitude, measure(1, **settings).altitude)
    assert not np.array_equal(measure(1, **settings).altitude[:ROWS], measure(2, **settings).altitude[:ROWS])


def test_each_severity_has_larger_errors_than_the_one_before() -> None:
    for name in ("position_bias", "intensity_noise", "jitter", "missing", "bursts", "outliers", "duplicates"):
        values = [getattr(config, name) for config in SEVERITIES]
        assert values == sorted(set(values)), name
    assert SEVERITIES[3].position_noise[1] == 500.0
    assert SEVERITIES[3].missing == 0.2
    assert SEVERITIES[3].outliers == 0.01


def test_a_setting_overrides_its_severity() -> None:
    assert of_severity(2, missing=0.0) == replace(SEVERITIES[2], missing=0.0)


@pytest.mark.parametrize("severity", [-1, 4])
def test_an_unknown_severity_is_refused(severity: int) -> None:
    with pytest.raises(ConfigError, match="severity out of range") as error:
        of_severity(severity)
    assert (error.value.expected, error.value.got) == ("0 to 3", str(severity))


@pytest.mark.parametrize(
    ("name", "value", "expected", "got"),
    [
        ("sensors", (0, 1), "1 <= fewest <= most <= 32", "0, 1"),
        ("sensors", (3, 2), "", "3, 2"),
        ("position_noise", (0.0, 10.0), "", "0, 10"),
        ("position_bias", -1.0, "0 to 100,000 m", "-1.0"),
        ("intensity_noise", 1.5, "0 to 1", "1.5"),
        ("jitter", float("nan"), "0 to 1", "nan"),
        ("missing", 0.6, "0 to 0.5", "0.6"),
        ("bursts", 101.0, "0 to 100", "101.0"),
        ("burst", (0.0, 5.0), "0 < shortest <= longest <= 600 s", "0, 5"),
        ("outliers", -0.1, "0 to 0.5", "-0.1"),
        ("duplicates", 1.0, "0 to 0.5", "1.0"),
        ("out_of_order", 1.0, "0 to 0.5", "1.0"),
        ("clock_offset", 61.0, "0 to 60 s", "61.0"),
    ],
)
def test_an_invalid_sensor_setting_is_reported_by_name(name: str, value: object, expected: str, got: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} out of range") as error:
        of_severity(0, **{name: value})
    assert expected in (error.value.expected or "")
    assert error.value.got == got


def test_an_unknown_sensor_setting_is_reported_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown sensor setting") as error:
        of_severity(0, noise=1.0)
    assert "position_noise" in (error.value.expected or "")
    assert error.value.got == "noise"


def test_the_documentation_lists_the_settings_of_every_severity() -> None:
    lines = (Path(__file__).parents[4] / "docs" / "simulation.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| `\w+`, .*\d \|$", line)
    ]
    documented = {row[0].split("`")[1]: [[float(n) for n in cell.split(" to ")] for cell in row[1:]] for row in rows}
    assert set(documented) == {field.name for field in fields(SensorConfig)} - {"burst"}
    for name, values in documented.items():
        for severity, value in enumerate(values):
            expected = np.unique(getattr(SEVERITIES[severity], name))
            assert value == expected.tolist(), (name, severity)
