"""`reentry train`: which data it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from reentry.errors import InputError, LakeError
from tests.training_data import write_flights
from training.fit.resume import UNFINISHED_NAME
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


@pytest.mark.parametrize("unfinished", [True, False])
def test_an_interrupted_training_says_how_to_resume_it_if_that_is_possible(
    unfinished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def interrupted(*_: Any, **__: Any) -> None:
        if unfinished:
            (out / UNFINISHED_NAME).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("training.train.train_tracks", interrupted)
    flights = write_flights(tmp_path / "a.csv")
    assert train(str(flights), "--out", str(out), "--no-track").exit_code == 130
    assert (f"--resume to continue from {out / UNFINISHED_NAME}" in caplog.text) == unfinished
