"""Tests of the prediction log, one JSON line for each track."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reentry.decision import NO_ONSET
from reentry.refinement import RefinedOnset
from reentry.schema import NO_ONSET_TIMESTAMP
from reentry.triton.prediction_log import ENVIRONMENT_VARIABLE, PredictionLog


def add(log: PredictionLog, **changes: Any) -> None:
    columns: dict[str, Any] = {
        "track_id": np.array([7, 8]),
        "rows": np.array([900, 600]),
        "onset_step": np.array([683, NO_ONSET]),
        "onset_timestamp": np.array([1.7e9 + 0.5, NO_ONSET_TIMESTAMP]),
        "model_version": np.array([3, 3]),
        "refinement": [RefinedOnset(1.7e9 + 0.25, 0.5, 20.0), None],
        "started_at": np.array([9.5, 9.75]),
    }
    log.add(**(columns | changes))


def test_each_track_is_one_json_line_with_its_inference_time(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = PredictionLog(os.open(path, os.O_WRONLY | os.O_CREAT), clock=lambda: 10.0)
    add(log)
    assert path.read_text() == ""  # the lines of a batch are one write
    log.close()
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {
        "track_id": 7,
        "rows": 900,
        "onset_step": 683,
        "onset_timestamp": 1.7e9 + 0.5,
        "refined_onset_timestamp": 1.7e9 + 0.25,
        "refined_onset_deviation": 0.5,
        "hindsight_seconds": 20.0,
        "inference_ms": 500.0,
        "model_version": 3,
    }
    assert (second["onset_step"], second["onset_timestamp"], second["inference_ms"]) == (None, None, 250.0)
    assert (second["refined_onset_timestamp"], second["hindsight_seconds"]) == (None, None)


def test_the_refined_onset_is_null_if_the_model_does_not_refine(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = PredictionLog.open(path)
    add(log, refinement=None)
    log.close()
    assert [json.loads(line)["refined_onset_timestamp"] for line in path.read_text().splitlines()] == [None, None]


def test_the_inference_time_is_null_if_no_model_saw_the_start(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = PredictionLog.open(path)
    add(log, started_at=None)
    log.close()
    assert [json.loads(line)["inference_ms"] for line in path.read_text().splitlines()] == [None, None]


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


def test_lines_go_to_standard_error_if_no_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    log = PredictionLog.from_environment()
    add(log)
    log.close()
    assert [json.loads(line)["rows"] for line in capfd.readouterr().err.splitlines()] == [900, 600]
