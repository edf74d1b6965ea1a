"""Benchmark of static and dynamic int8 quantisation."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from perf.formats.calibration import compare, main
from reentry.errors import InputError
from reentry.tracks import tracks_table, write_tracks
from tests.exporting import checkpoint_of, deciding, exporting
from tests.training_data import short_tracks
from training.config import ModelConfig


def test_dynamic_and_static_int8_are_compared_with_fp32(tmp_path: Path) -> None:
    path = exporting(tmp_path, checkpoint_of(ModelConfig(hidden=64))).checkpoint
    plain, dynamic, static = compare(path, rounds=1)
    assert (plain.name, plain.smaller, plain.time, plain.difference, plain.phases) == ("fp32", 1.0, 1.0, 0.0, 0)
    assert plain.steps == len(short_tracks(tmp_path, 3)[1])  # the first and the third fixed the ranges
    for way in (dynamic, static):
        assert way.smaller == plain.bytes / way.bytes > 3.0
        assert 0.0 < way.difference < 0.05
        assert way.time > 0.0


def test_the_command_prints_the_table_of_the_export_guide(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    path = exporting(tmp_path, deciding(ModelConfig(hidden=8, harmonics=()))).checkpoint
    lines = CliRunner().invoke(app, [str(path), "--rounds", "1"]).output.splitlines()
    assert lines[0] == "|  | kB | times smaller | time | largest difference | steps of another phase |"
    assert lines[2].startswith("| fp32 | ")
    assert lines[2].endswith(f" | 1.00 | 1.00 | 0.0e+00 | 0 of {len(short_tracks(tmp_path, 3)[1])} |")
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        "| int8, ranges of each call",
        "| int8, ranges of calibration",
    ]


def test_a_single_track_is_refused(tmp_path: Path) -> None:
    path = exporting(tmp_path, checkpoint_of(ModelConfig(hidden=8))).checkpoint
    write_tracks(tmp_path / "one.csv", tracks_table(short_tracks(tmp_path, 1)))
    with pytest.raises(InputError, match="too few tracks"):
        compare(path, data=tmp_path / "one.csv", rounds=1)
