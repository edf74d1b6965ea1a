"""`reentry predict` before it sends a request, and the summary that it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from client.outputs import OutputFiles
from client.predict import PredictConfig, ScoringSummary
from reentry.errors import ConfigError, TrackFileError


def run(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["predict", *arguments]).exception


def test_the_help_has_an_example() -> None:
    shown = CliRunner().invoke(app, ["predict", "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert "reentry predict data/test.csv --start-server" in shown.output


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--url", "127.0.0.1:8001", "not the URL of a Triton server"),
        ("--concurrency", "0", "requests in flight"),
        ("--batch", "0", "tracks in one request"),
        ("--patience", "-1", "patience"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_the_file_is_read(option: str, value: str, problem: str) -> None:
    error = run("no-such-file.csv", option, value)
    assert isinstance(error, ConfigError)
    assert problem in str(error)


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    error = run(str(tmp_path / "none.csv"), "--out", str(tmp_path / "out"))
    assert isinstance(error, TrackFileError)
    assert "none.csv" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_timeout_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        PredictConfig(source=Path("a.csv"), out=Path("out"), timeout=0.0)


@pytest.fixture
def prediction() -> ScoringSummary:
    return ScoringSummary(
        files=OutputFiles(
            predictions=Path("out/predictions.csv"),
            onsets=Path("out/onsets.csv"),
            inference=Path("out/inference.jsonl"),
            set_aside=Path("out/set_aside.csv"),
        ),
        rows=2_000,
        rows_scored=1_900,
        tracks=3,
        resumed=1,
        onsets=2,
        set_aside=1,
        rows_set_aside=100,
        model_version=7,
        seconds=0.25,
        reading_seconds=1.0,
        writing_seconds=0.5,
        notes="t.csv: 2,000 rows, 3 good tracks",
    )


def test_the_summary_has_counts_and_paths(prediction: ScoringSummary) -> None:
    text = prediction.summary()
    for expected in ("3 tracks (1,900 of 2,000 rows)", "version 7", "1 of them in an earlier run", "2 enter reentry"):
        assert expected in text
    assert "set aside, not scored: 1 track, 100 rows, see out/set_aside.csv" in text


@pytest.mark.parametrize(
    ("tracks", "rows", "expected"),
    [(2, 1_100, "2 tracks, 1,100 rows"), (1, 1, "1 track, 1 row"), (0, 311, "311 rows of no track")],
)
def test_the_summary_counts_tracks_set_aside_and_rows_without_a_track(
    prediction: ScoringSummary, tracks: int, rows: int, expected: str
) -> None:
    text = replace(prediction, set_aside=tracks, rows_set_aside=rows).summary()
    assert f"set aside, not scored: {expected}, see" in text


def test_the_summary_of_one_track_uses_the_singular(prediction: ScoringSummary) -> None:
    text = replace(prediction, tracks=1, onsets=1).summary()
    assert text.startswith("1 track (")
    assert "\n1 enters reentry\n" in text
