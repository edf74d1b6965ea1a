"""Tests that tracks unlike the training of a version are reported, and that similar tracks are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reentry.drift import REFERENCE_FILE, Reference
from reentry.features.track import track_features
from reentry.schema import MEASUREMENT_COLUMNS, TRACK_ID
from reentry.simulation import TrapezoidConfig, simulate_file, simulate_trapezoid
from reentry.tracks import read_tracks
from reentry.training_range import Finding, TrainingRange, TrainingRanges, from_json, ranges_of, to_json

TIME, LATITUDE, LONGITUDE, ALTITUDE, INTENSITY = range(5)
Track = np.ndarray
"""Measurements of one track, (T, M)."""
TRAINED = 72
"""Number of training tracks in the public data: 90 tracks without a fifth for validation."""


def flights(tracks: int, seed: int, **knobs: float) -> list[Track]:
    """Flights of the trapezoid profile; by default 600 to 1,200 rows with a time step of 0.5 s."""
    table = simulate_trapezoid(TrapezoidConfig(tracks=tracks, seed=seed, labels=False, **knobs))
    columns = list(MEASUREMENT_COLUMNS)
    return [track[columns].to_numpy(np.float64) for _, track in table.groupby(TRACK_ID.name)]


def trained_on(tracks: Iterable[Track], used: tuple[str, ...] = ("altitude_fraction",)) -> Reference:
    """Reference of a training on these tracks."""
    pairs = [(track, track_features(track, groups=frozenset())) for track in tracks]
    steps = np.concatenate([features[1:] for _, features in pairs])
    reference = Reference.of(steps, np.zeros(len(steps)), used)
    return replace(reference, ranges=ranges_of(reference, pairs))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return trained_on(flights(TRAINED, seed=1))


def findings_in(reference: Reference, tracks: Iterable[Track]) -> list[list[Finding]]:
    """Findings of each track."""
    training_range = TrainingRange(reference)
    return [
        training_range.findings(track[None], track_features(track[None], groups=frozenset()), np.array([len(track)]))[0]
        for track in tracks
    ]


def names(findings: list[Finding]) -> set[str]:
    return {finding.quantity for finding in findings}


def scaled(column: int, factor: float) -> Callable[[Track], Track]:
    def change(track: Track) -> Track:
        changed = track.copy()
        changed[:, column] *= factor
        return changed

    return change


def constant(column: int, value: float) -> Callable[[Track], Track]:
    def change(track: Track) -> Track:
        changed = track.copy()
        changed[:, column] = value
        return changed

    return change


def at_step(seconds: float) -> Callable[[Track], Track]:
    """Return a function that changes the time step of a track from 0.5 s."""

    def change(track: Track) -> Track:
        changed = track.copy()
        changed[:, TIME] = track[0, TIME] + (track[:, TIME] - track[0, TIME]) * seconds / 0.5
        return changed

    return change


def jittered(track: Track) -> Track:
    changed = track.copy()
    changed[1:-1, TIME] += np.random.default_rng(0).uniform(-0.2, 0.2, len(track) - 2)
    return changed


def raised(track: Track) -> Track:
    changed = track.copy()
    changed[:, ALTITUDE] += 30_000.0
    return changed


def noisy(track: Track) -> Track:
    changed = track.copy()
    changed[:, ALTITUDE] += np.random.default_rng(0).normal(0.0, 10_000.0, len(track))
    return changed


def part(start: float, end: float) -> Callable[[Track], Track]:
    return lambda track: track[int(start * len(track)) : int(end * len(track))]


def spiked(column: int, height: float, rows: int, at: float = 0.5) -> Callable[[Track], Track]:
    def change(track: Track) -> Track:
        changed = track.copy()
        first = int(at * len(track))
        changed[first : first + rows, column] += height
        return changed

    return change


def often_spiked(track: Track) -> Track:
    changed = track.copy()
    changed[np.random.default_rng(0).random(len(track)) < 0.02, ALTITUDE] += 40_000.0
    return changed


UNLIKE = {
    "0.1 s": (at_step(0.1), "time_step"),
    "0.25 s": (at_step(0.25), "time_step"),
    "1 s": (at_step(1.0), "time_step"),
    "2 s": (at_step(2.0), "time_step"),
    "5 s": (at_step(5.0), "duration"),
    "milliseconds": (scaled(TIME, 1000.0), "time_step"),
    "every other row": (lambda track: track[::2], "time_step"),
    "jittered steps": (jittered, "drift.time_step"),
    "km": (scaled(ALTITUDE, 1e-3), "apogee"),
    "feet": (scaled(ALTITUDE, 3.28084), "apogee"),
    "centimetres": (scaled(ALTITUDE, 100.0), "apogee"),
    "twice the apogee": (scaled(ALTITUDE, 2.0), "apogee"),
    "half the apogee": (scaled(ALTITUDE, 0.5), "apogee"),
    "negative altitude": (scaled(ALTITUDE, -1.0), "apogee"),
    "raised by 30 km": (raised, "start"),
    "constant altitude": (constant(ALTITUDE, 110_000.0), "start"),
    "constant altitude of 0": (constant(ALTITUDE, 0.0), "apogee"),
    "10 km of noise": (noisy, "drift.climb_rate"),
    "radians": (lambda track: scaled(LATITUDE, np.pi / 180)(scaled(LONGITUDE, np.pi / 180)(track)), "ground_speed"),
    "constant position": (lambda track: constant(LATITUDE, 50.0)(constant(LONGITUDE, 8.0)(track)), "ground_speed"),
    "intensity in per cent": (scaled(INTENSITY, 100.0), "intensity"),
    "intensity ten times too high": (scaled(INTENSITY, 10.0), "intensity"),
    "no intensity": (constant(INTENSITY, 0.0), "intensity"),
    "negative intensity": (scaled(INTENSITY, -1.0), "intensity"),
    "from a tenth of the flight on": (part(0.1, 1.0), "start"),
    "from the level flight on": (part(0.4, 1.0), "start"),
    "from the descent on": (part(0.75, 1.0), "start"),
    "the climb alone": (part(0.0, 0.25), "duration"),
    "three rows 50 km too high": (spiked(ALTITUDE, 50_000.0, 3), "outliers"),
    "three rows 20 km too low in the descent": (spiked(ALTITUDE, -20_000.0, 3, at=0.8), "outliers"),
    "one row of 0": (spiked(ALTITUDE, -110_000.0, 1), "outliers"),
    "spikes in 2 % of the rows": (often_spiked, "outliers"),
    "three bright rows": (spiked(INTENSITY, 3.0, 3), "outliers"),
    "three rows elsewhere": (spiked(LONGITUDE, 20.0, 3), "outliers"),
}


@pytest.mark.parametrize(("change", "quantity"), UNLIKE.values(), ids=UNLIKE)
def test_each_track_of_a_changed_file_has_the_expected_finding(
    change: Callable[[Track], Track], quantity: str, reference: Reference
) -> None:
    found = findings_in(reference, map(change, flights(10, seed=2)))
    assert [quantity in names(findings) for findings in found] == [True] * 10


@pytest.mark.parametrize(
    ("knobs", "quantities"),
    [
        ({"step": 0.05, "shortest": 6000, "longest": 12_000}, {"rows", "time_step"}),
        ({"step": 5.0, "shortest": 60, "longest": 120}, {"rows", "time_step"}),
        ({"shortest": 6000, "longest": 12_000}, {"rows", "duration"}),
        ({"shortest": 60, "longest": 120}, {"rows", "duration"}),
    ],
    ids=["ten times as many rows", "a tenth of the rows", "ten times as long", "a tenth as long"],
)
def test_flights_of_another_length_have_the_expected_findings(
    knobs: dict[str, float], quantities: set[str], reference: Reference
) -> None:
    for findings in findings_in(reference, flights(5, seed=2, **knobs)):
        assert quantities <= names(findings)


@pytest.mark.parametrize("trained", [1, 11, 12])
def test_flights_of_the_training_distribution_have_no_findings(trained: int, reference: Reference) -> None:
    known = reference if trained == 1 else trained_on(flights(TRAINED, seed=trained))
    for seed in range(20, 24):
        assert findings_in(known, flights(10, seed=seed)) == [[]] * 10


def test_ballistic_flights_of_the_training_distribution_have_no_findings(tmp_path: Path) -> None:
    drawn = {}
    for name, tracks in (("train", 40), ("new", 10)):
        simulate_file(tmp_path / f"{name}.parquet", tracks=tracks, seed=len(name), profile="ballistic")
        with read_tracks(tmp_path / f"{name}.parquet", labelled=True) as file:
            drawn[name] = [track.measurements for track in file]
    assert not any(findings_in(trained_on(drawn["train"]), drawn["new"]))


def test_a_training_on_varied_flights_has_a_wider_range() -> None:
    steps = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
    varied = [
        track
        for seed, step in enumerate(steps)
        for track in flights(12, seed=seed, step=step, shortest=int(300 / step), longest=int(600 / step))
    ]
    reference = trained_on(varied)
    within = flights(5, seed=9, step=0.2, shortest=1500, longest=3000)
    beyond = flights(5, seed=9, step=8.0, shortest=40, longest=75)
    assert all(
        {"rows", "time_step", "duration"}.isdisjoint(names(findings)) for findings in findings_in(reference, within)
    )
    assert all("time_step" in names(findings) for findings in findings_in(reference, beyond))


def test_spikes_as_in_the_training_are_not_reported() -> None:
    reference = trained_on(map(often_spiked, flights(TRAINED, seed=1)))
    assert all(
        "outliers" not in names(found) for found in findings_in(reference, map(often_spiked, flights(10, seed=2)))
    )


def test_a_gap_is_not_an_outlier(reference: Reference) -> None:
    silent = [np.delete(track, np.s_[100:124], axis=0) for track in flights(10, seed=2)]
    assert all("outliers" not in names(findings) for findings in findings_in(reference, silent))


def test_findings_do_not_depend_on_the_batch_or_its_padding(reference: Reference) -> None:
    tracks = [scaled(ALTITUDE, 1e-3)(track) for track in flights(4, seed=2)] + [flights(1, seed=3)[0][:1]]
    longest = max(map(len, tracks))
    padded = np.stack([np.concatenate([track, np.full((longest - len(track), 6), 7e5)]) for track in tracks])
    features = np.stack(
        [np.pad(track_features(track, groups=frozenset()), ((0, longest + 9 - len(track)), (0, 0))) for track in tracks]
    )
    together = TrainingRange(reference).findings(padded, features, np.array([len(track) for track in tracks]))
    assert together == findings_in(reference, tracks)
    assert "rows" in names(together[-1])


def test_a_finding_contains_the_value_and_the_training_range(reference: Reference) -> None:
    track = flights(1, seed=2)[0]
    [[finding]] = findings_in(reference, [spiked(ALTITUDE, 50_000.0, 3)(track)])
    assert finding == Finding(quantity="outliers", value=pytest.approx(3 / len(track), rel=1e-5), low=0.0, high=0.0)
    assert reference.ranges is not None
    assert reference.ranges["time_step"] == (0.5, 0.5)
    low, high = reference.ranges["rows"]
    assert 600 <= low < 650 < 1150 < high <= 1200


def test_findings_are_encoded_as_valid_json_without_infinity(reference: Reference) -> None:
    absurd = scaled(ALTITUDE, 1e300)(flights(1, seed=2)[0])
    absurd[:, TIME] = np.linspace(0.0, 1e308, len(absurd))
    with np.errstate(all="ignore"):
        [findings] = findings_in(reference, [absurd])
    text = to_json(findings)
    json.loads(text, parse_constant=pytest.fail)
    assert from_json(text) == findings


@pytest.mark.parametrize("text", ["", "7", "[1]", '[{"quantity": "rows"}]', "[" * 100_000, b"\xff"])
def test_text_other_than_findings_is_rejected(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"Expected a JSON list|Expecting|decode"):
        from_json(text)


def test_the_training_range_of_a_version_is_reloaded_with_its_file(tmp_path: Path, reference: Reference) -> None:
    ranges = TrainingRanges(tmp_path)
    assert ranges.of(1) is None
    (tmp_path / "1").mkdir()
    file = tmp_path / "1" / REFERENCE_FILE
    file.write_text(json.dumps(replace(reference, ranges=None).as_dict()))
    assert ranges.of(1) is None
    file.unlink()
    file.write_text(json.dumps(reference.as_dict()))
    known = ranges.of(1)
    assert known is not None
    assert ranges.of(1) is known
    assert ranges.of(2) is None
    file.write_text("{")
    assert ranges.of(1) is None


def test_a_reference_without_ranges_still_loads(reference: Reference) -> None:
    older = reference.as_dict()
    del older["ranges"]
    assert Reference.from_dict(older) == replace(reference, ranges=None)
    assert Reference.from_dict(json.loads(json.dumps(reference.as_dict()))) == reference
