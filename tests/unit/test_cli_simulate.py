"""`reentry simulate` as a user types it."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from reentry.cli import main
from reentry.simulation import TrapezoidConfig, simulate_trapezoid


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reentry", "simulate", *arguments])
    with pytest.raises(SystemExit) as status:
        main()
    return int(status.value.code or 0)


@pytest.mark.parametrize("name", ["train.csv", "train.parquet", "TRAIN.PQ"])
def test_the_suffix_says_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "new" / name
    assert run(monkeypatch, str(path), "--tracks", "2", "--seed", "3") == 0
    read = pd.read_csv(path, float_precision="round_trip") if name.endswith("csv") else pd.read_parquet(path)
    expected = simulate_trapezoid(TrapezoidConfig(tracks=2, seed=3))
    pd.testing.assert_frame_equal(read, expected, check_dtype=False, check_exact=True)
    assert f"2 tracks, {len(expected):,} rows" in capsys.readouterr().out.replace("\n", " ")


def test_a_csv_file_begins_with_the_plain_header_of_the_public_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "test.csv"
    assert run(monkeypatch, str(path), "--tracks", "1", "--no-labels") == 0
    lines = path.read_text().splitlines()
    assert lines[0] == "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity"
    assert lines[1].startswith("1731308400,0,3,64.1")
    assert lines[2].startswith("1731308400.5,0,3,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.csv", "--tracks", "0"], "tracks out of range; expected at least 1; got 0"),
        (["x.csv", "--seed", "-1"], "seed out of range"),
        (["x.csv", "--profile", "trapezoit"], "no such profile; expected trapezoid or ballistic; got 'trapezoit'"),
        (["x.txt"], "x.txt: unknown kind of file; expected a name ending in .csv"),
        (["folder.csv"], "folder.csv: cannot be written: Is a directory"),
        (["file/x.csv"], "file/x.csv: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    Path("file").touch()
    assert run(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.csv"]


def test_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "reentry simulate data/hard.parquet" in capsys.readouterr().out
