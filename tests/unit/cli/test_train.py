"""`reentry train`: which data it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from reentry.errors import InputError, LakeError
from tests.training_data import write_flights
from training.runs.runs import all_runs


def train(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


def test_a_condition_needs_a_table(tmp_path: Path) -> None:
    result = train(str(write_flights(tmp_path / "a.csv")), "--where", "track_id < 3", "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, InputError)
    assert result.exception.problem == "a condition needs a table"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("lake:nothing@1", "not a table of the lake"),
        ("lake:clean@1", "not a table to train on"),
        ("lake:features@1", "there is no such table"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_an_error_and_records_no_run(
    table: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    result = train(table, "--lake", str(tmp_path / "lake"), "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, InputError | LakeError)
    assert result.exception.problem == problem
    assert all_runs() == []
