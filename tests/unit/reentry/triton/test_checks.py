"""Tests of the checks of inference requests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reentry.schema import FEATURES, LARGEST_REQUEST, LONGEST_TRACK, MEASUREMENT_COLUMNS, TRACK_COLUMNS, Column
from reentry.triton.checks import (
    require_decidable,
    require_features,
    require_lengths,
    require_measurements,
    require_scored,
    require_timestamps,
)


def measured(tracks: int = 3, steps: int = 5) -> np.ndarray:
    """Plausible measurements of descents, (B, T, M)."""
    step = np.arange(steps)
    columns = {
        "timestamp": 1.7e9 + 0.5 * step,
        "latitude": 64.03 - 0.04 * step,
        "longitude": -22.01 - 0.07 * step,
        "altitude": 9e4 - 700.7 * step,
        "radiometric_intensity": 0.53 - 0.01 * step,
        "sensor_id": np.full(steps, 3.0),
    }
    return np.stack([np.stack([columns[name] for name in MEASUREMENT_COLUMNS], axis=-1)] * tracks)


def full(table: np.ndarray) -> np.ndarray:
    """Lengths of tracks without padding, (B,)."""
    return np.full(len(table), table.shape[1])


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("longitude", np.nan, "not finite, got nan"),
        ("radiometric_intensity", np.inf, "not finite, got inf"),
        ("altitude", -np.inf, "not finite, got -inf"),
        ("latitude", 90.5, "above 90 degrees, got 90.5"),
        ("latitude", -91.0, "below -90 degrees, got -91"),
        ("longitude", 361.0, "above 360 degrees, got 361"),
        ("altitude", 1e9, r"above 1e\+08 m, got 1000000000"),
        ("altitude", -2e5, r"below -100000 m, got -200000"),
        ("timestamp", 1.7e12, r"above 1e\+11 s; milliseconds\? expected seconds, got 1700000000000"),
        ("timestamp", -0.5, "below 0 s, got -0.5"),
        ("timestamp", 1.7e9 + 1.25, "time runs backwards, from 1700000001.5 .*, got 1700000001.25"),
        ("sensor_id", 3.5, "not a whole number, got 3.5"),
    ],
)
def test_an_impossible_measurement_is_named_by_track_row_and_column(column: str, value: float, problem: str) -> None:
    measurements = measured()
    require_measurements(measurements, full(measurements))
    measurements[2, 4, MEASUREMENT_COLUMNS.index(column)] = value
    with pytest.raises(ValueError, match=rf"^track 2 of the request, row 4, column {column}: {problem}; fix: "):
        require_measurements(measurements, full(measurements))


@pytest.mark.parametrize("column", [c for c in TRACK_COLUMNS if c.name in MEASUREMENT_COLUMNS], ids=lambda c: c.name)
def test_the_limits_of_a_column_themselves_are_accepted(column: Column) -> None:
    for limit in (column.low, column.high):
        if limit is not None:
            measurements = measured(steps=1)
            measurements[..., MEASUREMENT_COLUMNS.index(column.name)] = limit
            require_measurements(measurements, full(measurements))


def test_the_first_of_several_faults_is_named() -> None:
    measurements = measured()
    measurements[1, 3, 1] = measurements[1, 4, 0] = measurements[2, 0, 3] = np.nan
    with pytest.raises(ValueError, match="track 1 of the request, row 3, column latitude"):
        require_measurements(measurements, full(measurements))


def test_several_measurements_with_one_timestamp_are_accepted() -> None:
    measurements = measured()
    measurements[:, :, 0] = 1.7e9
    require_measurements(measurements, full(measurements))


def test_padding_has_to_be_finite_but_not_plausible() -> None:
    measurements = measured()
    measurements[1, 3:] = 0.0  # time runs backwards there, but only in the padding
    require_measurements(measurements, np.array([5, 3, 5]))
    with pytest.raises(ValueError, match="track 1 of the request, row 3, column timestamp: time runs backwards"):
        require_measurements(measurements, np.array([5, 4, 5]))
    measurements[1, 4, 3] = np.nan
    with pytest.raises(ValueError, match="track 1 of the request, row 4, column altitude: not finite"):
        require_measurements(measurements, np.array([5, 3, 5]))


def test_only_column_orders_that_look_plausible_pass() -> None:
    passed = []
    for names in itertools.permutations(MEASUREMENT_COLUMNS):
        swapped = measured()[..., [MEASUREMENT_COLUMNS.index(name) for name in names]]
        try:
            require_measurements(swapped, full(swapped))
        except ValueError:
            continue
        passed.append(names)
    # An altitude cannot be an angle, but latitude, longitude and intensity have values that fit each other's range.
    assert len(passed) == 2 * 6
    for time, first, second, *_, sensor in passed:
        assert (time, sensor) == ("timestamp", "sensor_id")
        assert "altitude" not in (first, second)


def test_the_column_order_of_the_csv_is_refused_and_the_expected_one_named() -> None:
    order = [column.name for column in TRACK_COLUMNS if column.name in MEASUREMENT_COLUMNS]
    measurements = measured()[:, :, [MEASUREMENT_COLUMNS.index(name) for name in order]]
    with pytest.raises(ValueError, match=r"column sensor_id: .*, got 0\.53; fix: .* in the order timestamp"):
        require_measurements(measurements, full(measurements))


def test_a_request_without_measurements_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        require_measurements(measured(steps=0), np.array([1, 1, 1]))


def test_a_request_with_too_many_steps_is_refused() -> None:
    def check(tracks: int, steps: int) -> None:
        measurements = np.broadcast_to(measured(1, 1), (tracks, steps, len(MEASUREMENT_COLUMNS)))
        require_measurements(measurements, full(measurements))

    check(1, LONGEST_TRACK)
    with pytest.raises(ValueError, match=r"at most 100,000 steps .*, got 100,001"):
        check(1, LONGEST_TRACK + 1)
    with pytest.raises(ValueError, match=r"at most 262,144 steps .*, got 262,208"):
        check(64, LARGEST_REQUEST // 64 + 1)


def test_an_impossible_timestamp_is_named_by_track_row_and_column() -> None:
    timestamp = measured()[..., 0]
    require_timestamps(timestamp, np.array([5, 5, 5]))
    timestamp[1, 3] = np.nan
    require_timestamps(timestamp, np.array([5, 3, 5]))
    with pytest.raises(ValueError, match="track 1 of the request, row 3, column timestamp: not finite, got nan"):
        require_timestamps(timestamp, np.array([5, 4, 5]))


def test_a_feature_outside_the_range_of_float32_is_named() -> None:
    features = np.zeros((1, 2, len(FEATURES)), dtype=np.float32)
    features[0, 1, 2] = np.inf
    with pytest.raises(ValueError, match=f"row 1, column {FEATURES[2]}: .* float32"):
        require_features(features)


def test_a_length_outside_the_measurements_is_refused() -> None:
    require_lengths(np.array([1, 7]), 7)
    for length in (0, 8):
        with pytest.raises(ValueError, match=rf"track 1 of the request: .* from 1 to 7.* got {length}"):
            require_lengths(np.array([7, length]), 7)


NOW = 5000.0
DECIDABLE = {
    "probability": np.full((2, 8), 0.5, dtype=np.float32),
    "features": np.zeros((2, 8, len(FEATURES)), dtype=np.float32),
    "model_version": np.array([3, 3]),
    "started_at": np.array([NOW, NOW - 0.25]),
}


def test_valid_inputs_of_the_ensemble_pass_the_check() -> None:
    require_decidable(**DECIDABLE, steps=5, now=NOW)
    padding = DECIDABLE["probability"].copy()
    padding[:, 5:] = np.nan  # values in the padding are not checked
    require_decidable(**DECIDABLE | {"probability": padding}, steps=5, now=NOW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": np.full((2, 4), 0.5)}, "reentry_probability: expected at least the 5 steps .* got 4"),
        (
            {"features": np.zeros((2, 4, len(FEATURES)))},
            "features: expected at least the 5 steps .* got 4",
        ),
        (
            {"probability": np.full((2, 8), np.nan)},
            "track 0 .* row 0: expected reentry_probability from 0 to 1, got nan; likely cause: features .* numba",
        ),
        ({"probability": np.full((2, 8), 7.5)}, "expected reentry_probability from 0 to 1, got 7.5$"),
        ({"probability": np.full((2, 8), -0.1)}, "expected reentry_probability from 0 to 1, got -0.1"),
        ({"model_version": np.array([0, 0])}, "model_version: expected one version .* at least 1, got 0 to 0"),
        ({"model_version": np.array([3, 4])}, "model_version: expected one version .* got 3 to 4"),
        ({"started_at": np.array([NOW, np.nan])}, r"started_at: expected a time .*got \[5000.0, nan\]"),
        ({"started_at": np.array([NOW, NOW + 1.0])}, "started_at: .* not in the future"),
        ({"started_at": np.array([NOW, -1.0])}, "started_at: .* at most 3,600 s ago"),
        ({"started_at": np.array([NOW, -np.inf])}, "started_at: .* at most 3,600 s ago"),
    ],
)
def test_invalid_inputs_of_a_direct_call_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_decidable(**DECIDABLE | change, steps=5, now=NOW)


def scored(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """An answer of the graph for a track with an onset, and for one of 3 steps without an onset, with changes."""
    answer = {
        "phase": np.array([[0, 0, 1, 1], [0, 0, 0, 255]], dtype=np.uint8),
        "track_length": np.array([4, 3]),
        "onset_step": np.array([2, -1]),
        "onset_timestamp": np.array([1.7e9, -1.0]),
        "model_version": np.array([3, 3]),
    }
    return answer | changes


def test_an_answer_of_the_graph_is_accepted_whatever_its_padding_holds() -> None:
    require_scored(**scored())


def test_the_first_invalid_row_of_a_track_is_named() -> None:
    phase = np.array([[0, 0, 1, 1], [0, 255, 255, 255]], dtype=np.uint8)
    answer = scored(phase=phase, onset_step=np.array([2, -2]), onset_timestamp=np.array([1.7e9, np.nan]))
    with pytest.raises(ValueError, match=r"track 1 of the request: invalid from row 1 on; fix: .* the model reentry,"):
        require_scored(**answer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track_length": np.array([4, 5])}, "track 1 of the request: expected track_length from 1 to 4"),
        ({"track_length": np.array([0, 3])}, "track 0 of the request: expected track_length"),
        ({"model_version": np.array([3, 4])}, "expected one version for the whole request, at least 1, got 3 to 4"),
        ({"model_version": np.array([0, 0])}, "at least 1, got 0 to 0"),
        ({"phase": np.full((2, 4), 7, dtype=np.uint8)}, "track 0 of the request, row 0: expected reentry_phase 0 or 1"),
        ({"onset_step": np.array([4, -1])}, "track 0 of the request: expected onset_step -1"),
        ({"onset_step": np.array([2, -2])}, "track 1 of the request: .*got -2 and -1"),
        ({"onset_step": np.array([-1, -1])}, "track 0 of the request: .*got -1 and 1700000000"),
        ({"onset_timestamp": np.array([np.nan, -1.0])}, "track 0 of the request: .*got 2 and nan"),
        ({"onset_timestamp": np.array([1e300, -1.0])}, "got 2 and 1e[+]300"),
        ({"phase": np.zeros((2, LONGEST_TRACK + 1), dtype=np.uint8)}, f"at most {LONGEST_TRACK:,} steps"),
        ({"phase": np.zeros((4, LARGEST_REQUEST // 4 + 1), dtype=np.uint8)}, f"at most {LARGEST_REQUEST:,} steps"),
    ],
)
def test_values_that_the_graph_never_gives_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_scored(**scored(**changes))
