"""The benchmark of `reentry predict` on small files, with a real server."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from perf.predict import repeated_tracks, run_benchmark
from reentry.errors import ConfigError
from reentry.tracks import read_tracks, write_tracks


def test_repeated_tracks_have_new_ids_and_later_times(tmp_path: Path) -> None:
    write_tracks(tmp_path / "t.parquet", repeated_tracks(601))
    with read_tracks(tmp_path / "t.parquet") as file:
        tracks = list(file)
    assert [track.track_id for track in tracks] == list(range(601))
    starts = [track.timestamp[0] for track in tracks]
    assert starts == sorted(starts)
    assert len(tracks[600]) == len(tracks[300]) == len(tracks[0])


def test_the_report_has_the_phases_and_the_memory_of_each_file(tmp_path: Path, model_repository: Path) -> None:
    run_benchmark(largest=10, formats=["csv"], repository=model_repository, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("predict.csv", "predict.json", "predict.md", "predict.png")
    ]
    with (tmp_path / "predict.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert [(run["format"], run["tracks"]) for run in runs] == [("csv", "10")]
    for run in runs:
        phases = [float(run[f"{phase}_seconds"]) for phase in ("start", "read", "score", "write")]
        assert min(phases) > 0.0
        assert sum(phases) == pytest.approx(float(run["wall_seconds"]))
        assert 10.0 < float(run["peak_mib"]) < 10_000.0
        assert int(run["rows"]) >= 600 * int(run["tracks"])
    report = json.loads((tmp_path / "predict.json").read_text())
    assert {"machine", "versions", "git_revision", "busy"} < set(report)
    assert (tmp_path / "predict.md").read_text().count("| csv |") == 1


@pytest.mark.parametrize(("largest", "formats"), [(9, ["csv"]), (10, []), (10, ["json"])])
def test_settings_out_of_range_are_refused(tmp_path: Path, largest: int, formats: list[str]) -> None:
    with pytest.raises(ConfigError, match="invalid settings"):
        run_benchmark(largest=largest, formats=formats, repository=tmp_path, out=tmp_path)
