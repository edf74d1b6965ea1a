"""`reentry simulate` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from cli import main
from reentry.errors import TrackFileError
from reentry.simulation import (
    BallisticConfig,
    ShotConfig,
    TrapezoidConfig,
    of_severity,
    simulate_ballistic,
    simulate_file,
    simulate_trapezoid,
)
from reentry.tracks import origin_of, write_tracks


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reentry", "simulate", *arguments])
    with pytest.raises(SystemExit) as status:
        main()
    return int(status.value.code or 0)


@pytest.mark.parametrize("name", ["train.csv", "train.parquet", "TRAIN.PQ"])
def test_the_suffix_decides_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "new" / name
    assert run(monkeypatch, str(path), "--tracks", "2", "--seed", "3") == 0
    read = pd.read_csv(path, float_precision="round_trip") if name.endswith("csv") else pd.read_parquet(path)
    expected = simulate_trapezoid(TrapezoidConfig(tracks=2, seed=3))
    pd.testing.assert_frame_equal(read, expected, check_dtype=False, check_exact=True)
    assert f"2 tracks, {len(expected):,} rows" in capsys.readouterr().out.replace("\n", " ")


def test_a_csv_file_has_the_header_of_the_public_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.csv"
    assert run(monkeypatch, str(path), "--tracks", "1", "--no-labels") == 0
    lines = path.read_text().splitlines()
    assert lines[0] == "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity"
    assert lines[1].startswith("1731308400,0,3,64.1")
    assert lines[2].startswith("1731308400.5,0,3,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.csv", "--tracks", "0"], "tracks out of range; expected 1 to 1,000,000,000; got 0"),
        (["x.csv", "--seed", "-1"], "seed out of range"),
        (["x.csv", "--profile", "trapezoit"], "no such profile; expected trapezoid or ballistic; got 'trapezoit'"),
        (["x.csv", "--profile", "balistic"], "got 'balistic'; fix: --profile ballistic"),
        (
            ["x.csv", "--profile", "ballistic", "--tracks", "0"],
            "tracks out of range; expected 1 to 1,000,000,000; got 0",
        ),
        (["x.csv", "--profile", "ballistic", "--severity", "4"], "severity out of range; expected 0 to 3; got 4"),
        (["x.csv", "--severity", "1"], "the profile trapezoid has no severity; got 1; fix: --profile ballistic"),
        (["x.csv", "--processes", "0"], "processes out of range; expected 1 to 1,024; got 0"),
        (["x.csv", "--config", "none.toml"], "none.toml: no such file"),
        (["x.txt"], "x.txt: unsupported file type; expected a name ending in .csv"),
        (["folder.csv"], "folder.csv: cannot be written: Is a directory"),
        (["file/x.csv"], "file/x.csv: cannot be written"),
    ],
)
def test_an_invalid_argument_ends_with_one_line_and_leaves_no_file(
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


def test_a_settings_file_is_applied_and_a_parquet_file_records_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, path = tmp_path / "hard.toml", tmp_path / "hard.parquet"
    settings.write_text("[ballistic]\nstep = 2\n[shots]\ndistance = [300_000, 500_000]\n[sensors]\nmissing = 0\n")
    options = ["--profile", "ballistic", "--tracks", "3", "--seed", "4", "--severity", "2", "--config", str(settings)]
    assert run(monkeypatch, str(path), *options) == 0
    expected = simulate_ballistic(
        BallisticConfig(
            tracks=3,
            seed=4,
            step=2.0,
            shots=ShotConfig(distance=(300_000.0, 500_000.0)),
            sensors=of_severity(2, missing=0.0),
        )
    )
    pd.testing.assert_frame_equal(pd.read_parquet(path), expected, check_exact=True)
    assert "3 tracks" in capsys.readouterr().out
    assert origin_of(path) == {
        "profile": "ballistic",
        "seed": 4,
        "severity": 2,
        "tracks": 3,
        "settings": {"ballistic": {"step": 2}, "shots": {"distance": [300_000, 500_000]}, "sensors": {"missing": 0}},
    }


@pytest.mark.parametrize(("text", "rule"), [("", "flight"), ('label_rule = "descent"', "descent")])
def test_the_origin_of_trapezoids_has_their_label_rule(text: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(f"[trapezoid]\n{text}\n")
    simulate_file(tmp_path / "a.parquet", tracks=1, config=tmp_path / "settings.toml")
    origin = origin_of(tmp_path / "a.parquet")
    assert origin is not None
    assert origin["label_rule"] == rule


def test_a_file_without_a_recorded_origin_has_no_origin(tmp_path: Path) -> None:
    table = simulate_trapezoid(TrapezoidConfig(tracks=1))
    write_tracks(tmp_path / "a.csv", table, origin={"profile": "trapezoid"})
    write_tracks(tmp_path / "b.parquet", table)
    assert origin_of(tmp_path / "a.csv") is None
    assert origin_of(tmp_path / "b.parquet") is None
    (tmp_path / "c.parquet").write_text("no Parquet")
    for name in ("c.parquet", "d.parquet"):
        with pytest.raises(TrackFileError, match=f"{name}: cannot be read"):
            origin_of(tmp_path / name)


@pytest.mark.parametrize(
    ("profile", "text", "message"),
    [
        ("ballistic", "[sensor]\n", "unknown table; expected ballistic, shots, sensors; got sensor"),
        ("ballistic", "[trapezoid]\n", "unknown table; expected ballistic, shots, sensors; got trapezoid"),
        ("trapezoid", "[sensors]\n", "unknown table; expected trapezoid; got sensors"),
        ("ballistic", "[sensors]\nnoise = 1\n", "unknown key in [sensors]; expected burst, bursts, clock_offset"),
        ("ballistic", "[ballistic]\nseed = 1\n", "unknown key in [ballistic]"),
        ("ballistic", "[sensors]\nmissing = 0.9\n", "missing out of range; expected 0 to 0.5; got 0.9"),
        ("ballistic", "[shots]\ndistance = 5e5\n", "distance has the wrong type; expected a list of two numbers"),
        ("ballistic", "[shots]\ndistance = [5e5]\n", "distance has the wrong type; expected a list of two numbers"),
        ("ballistic", "[sensors]\nsensors = [1.5, 2]\n", "expected a list of two whole numbers; got [1.5, 2]"),
        ("trapezoid", "[trapezoid]\nstep = 0\n", "step out of range; expected 0.001 to 3600 s; got 0"),
        ("trapezoid", "[trapezoid]\nlaunch_site = [100, 500]\n", "launch_site out of range; expected latitude within"),
        ("trapezoid", "[trapezoid]\nfirst_launch = nan\n", "first_launch out of range; expected at least 0 s; got nan"),
        ("trapezoid", "[trapezoid\n", "not TOML"),
    ],
)
def test_an_invalid_settings_file_ends_with_one_line_and_leaves_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    profile: str,
    text: str,
    message: str,
) -> None:
    (tmp_path / "x.toml").write_text(text)
    options = ["--profile", profile, "--config", str(tmp_path / "x.toml")]
    assert run(monkeypatch, str(tmp_path / "x.parquet"), *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.toml"]


def test_the_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "reentry simulate data/hard.parquet" in capsys.readouterr().out
