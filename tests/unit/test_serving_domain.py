"""What the served Python models are made of: buckets, checks of requests, decisions of padded tracks, the log."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reentry.buckets import bucket_length, pad_steps
from reentry.decision import NO_ONSET, DecisionConfig, decide_tracks
from reentry.prediction_log import ENVIRONMENT_VARIABLE, PredictionLog
from reentry.requests import require_features, require_lengths, require_measurements
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, NO_ONSET_TIMESTAMP


@pytest.mark.parametrize(
    ("steps", "bucket"), [(1, 1), (2, 2), (3, 4), (33, 64), (64, 64), (65, 128), (900, 960), (1200, 1216)]
)
def test_a_bucket_is_a_power_of_two_or_a_multiple_of_64(steps: int, bucket: int) -> None:
    assert bucket_length(steps) == bucket


@given(st.integers(1, 100_000))
def test_a_bucket_holds_its_steps_wastes_little_and_is_its_own_bucket(steps: int) -> None:
    bucket = bucket_length(steps)
    assert steps <= bucket < min(2 * steps, steps + 64)
    assert bucket_length(bucket) == bucket


def test_no_steps_have_no_bucket() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        bucket_length(0)


def test_padding_repeats_the_last_step() -> None:
    values = np.arange(12.0).reshape(2, 3, 2)
    padded = pad_steps(values, 5)
    np.testing.assert_array_equal(padded[:, :3], values)
    np.testing.assert_array_equal(padded[:, 3:], values[:, [2, 2]])
    assert pad_steps(values, 3) is values
    with pytest.raises(ValueError, match="at most 2 steps"):
        pad_steps(values, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_track_row_and_column(value: float) -> None:
    measurements = np.zeros((3, 5, len(MEASUREMENT_COLUMNS)))
    require_measurements(measurements)
    measurements[2, 4, MEASUREMENT_COLUMNS.index("longitude")] = value
    with pytest.raises(ValueError, match=rf"track 2 of the request, row 4, column longitude: .* Got: {value}"):
        require_measurements(measurements)


def test_no_measurements_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        require_measurements(np.zeros((1, 0, len(MEASUREMENT_COLUMNS))))


def test_a_feature_that_left_float32_is_named() -> None:
    features = np.zeros((1, 2, len(FEATURES)), dtype=np.float32)
    features[0, 1, 2] = np.inf
    with pytest.raises(ValueError, match=f"row 1, column {FEATURES[2]}: expected a feature within float32"):
        require_features(features)


def test_lengths_lie_within_the_measurements() -> None:
    require_lengths(np.array([1, 7]), 7)
    for length in (0, 8):
        with pytest.raises(ValueError, match=rf"track 1 of the request: .* from 1 to 7.* Got: {length}"):
            require_lengths(np.array([7, length]), 7)


def test_an_onset_in_the_padding_is_none() -> None:
    probability = np.array([[0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]])
    timestamp = np.arange(12.0).reshape(3, 4)
    phase, onset, at = decide_tracks(probability, timestamp, np.array([2, 2, 4]), DecisionConfig())
    np.testing.assert_array_equal(phase, [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    assert onset.tolist() == [1, NO_ONSET, NO_ONSET]
    assert onset.dtype == np.int32
    np.testing.assert_array_equal(at, [1.0, NO_ONSET_TIMESTAMP, NO_ONSET_TIMESTAMP])


def add(log: PredictionLog, **changes: np.ndarray) -> None:
    columns = {
        "track_id": np.array([7, 8]),
        "rows": np.array([900, 600]),
        "onset_step": np.array([683, NO_ONSET]),
        "onset_timestamp": np.array([1.7e9 + 0.5, NO_ONSET_TIMESTAMP]),
        "model_version": np.array([3, 3]),
        "started_at": np.array([9.5, 9.75]),
    }
    log.add(**(columns | changes))


def test_each_track_is_one_json_line_with_the_time_it_took(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = PredictionLog(os.open(path, os.O_WRONLY | os.O_CREAT), clock=lambda: 10.0)
    add(log)
    assert path.read_text() == ""  # one write for a whole batch
    log.close()
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {
        "track_id": 7,
        "rows": 900,
        "onset_step": 683,
        "onset_timestamp": 1.7e9 + 0.5,
        "inference_ms": 500.0,
        "model_version": 3,
    }
    assert (second["onset_step"], second["onset_timestamp"], second["inference_ms"]) == (None, None, 250.0)


def test_several_processes_append_to_the_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "log.jsonl"))
    logs = [PredictionLog.from_environment() for _ in range(2)]
    for _ in range(2):
        for log in logs:
            add(log)
            log.write()
    for log in logs:
        log.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["track_id"] for line in lines] == [7, 8] * 4


def test_without_a_file_lines_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    log = PredictionLog.from_environment()
    add(log)
    log.close()
    assert [json.loads(line)["rows"] for line in capfd.readouterr().err.splitlines()] == [900, 600]
