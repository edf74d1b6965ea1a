"""The benchmark of `reentry score-bulk` on a small table, with real workers."""

from __future__ import annotations

import json
from pathlib import Path

from perf.bulk import BulkRun, BulkScale, markdown, measure_empty, run_benchmark
from tests.bulk import InThisProcess


def run_of(rows: int, cpu_seconds: float) -> BulkRun:
    return BulkRun(
        rows=rows,
        tracks=rows // 900,
        parts=100,
        source_mib=36.0,
        result_mib=2.0,
        wall_seconds=1.0,
        cpu_seconds=cpu_seconds,
        driver_peak_mib=200.0,
        worker_peak_mib=500.0,
        driver_bytes=2**20,
    )


def test_a_run_is_measured_with_its_driver_and_its_workers(tmp_path: Path, model_repository: Path) -> None:
    out = tmp_path / "report"
    scale = run_benchmark(rows=[9_000], tasks=0, processes=1, repository=model_repository, version="1", out=out)
    (run,) = scale.runs
    assert run.tracks == 10
    assert 6_000 <= run.rows <= 12_000
    assert 1 < run.parts <= 10
    assert min(run.source_mib, run.result_mib) > 0.0
    assert 0.5 < run.cpu_seconds < 100.0
    assert 50.0 < run.driver_peak_mib < 2_000.0
    assert 50.0 < run.worker_peak_mib < 2_000.0
    assert 1_000 < run.driver_bytes < 100_000
    assert sorted(path.name for path in out.iterdir()) == ["bulk.json", "bulk.md"]
    assert json.loads((out / "bulk.json").read_text())["runs"][0]["rows"] == run.rows


def test_figures_of_a_cluster_are_labelled_computed_and_follow_from_the_largest_run() -> None:
    runs = [run_of(1_000_000, 4.0), run_of(100_000_000, 80.0)]
    text = markdown(BulkScale(machine={"processor": "p", "cores": 2, "memory_gib": 24}, git_revision="r", processes=2,
                              runs=runs, empty=[]))  # fmt: skip
    assert "| 1,000,000 | 1,111 | 100 | 36 | 2 | 4.0 | 4.00 | 200 | 500 | 1,048,576 |" in text
    assert "Computed, not measured: 1,000,000,000 rows on a cluster, from the run of 100,000,000 rows." in text
    assert "0.22 core hours" in text
    assert "About 10.0 MiB would pass through the driver." in text
    assert "| cores | minutes, computed | parts for each core |" in text
    assert "| 16 | 0.8 | 62 |" in text


def test_empty_tasks_are_computed_once_each() -> None:
    cost = measure_empty("this process", InThisProcess(), 50)
    assert (cost.workers, cost.tasks, cost.driver_bytes) == ("this process", 50, 0)
    assert 0.0 <= cost.cpu_seconds < 10.0
    assert cost.wall_seconds > 0.0
