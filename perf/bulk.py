"""Benchmark of `reentry score-bulk` on tables of 1 to 100 million rows: processor time, memory, bytes in the driver.

    python -m perf.bulk --rows 1000000 --rows 10000000 --processes 2 --out artifacts/bulk-scale

A few hundred simulated tracks are repeated under new ids and at later times. Each table is scored by one run of the
command with an empty table of results. Processor time and memory do not depend on other load on the machine, so they
are the figures of the report. The figures for a cluster are computed from them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import typer

from perf.machine import machine
from perf.measured_process import measured
from perf.peers.process_tree import tree_cpu_seconds
from perf.predict import repeated_tracks
from perf.tables import table
from pipeline.bulk.pool import ProcessPool, Workers
from pipeline.lake.lake import Lake
from pipeline.lake.tables import CLEAN, PREDICTIONS, bucket_of
from reentry.errors import ReentryError
from reentry.runtime.files import whole_file
from reentry.runtime.revision import git_revision
from reentry.schema import REENTRY_PHASE, TRACK_ID

_ROWS_OF_TRACK: Final = 900
"""Mean number of rows of a simulated track."""
_CLUSTER_ROWS: Final = 1_000_000_000
_CLUSTER_CORES: Final = (16, 64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRun:
    """Figures of one run of `reentry score-bulk`."""

    rows: int
    tracks: int
    parts: int
    source_mib: float
    """Size of the scored table."""
    result_mib: float
    """Size of the rows that the run wrote."""
    wall_seconds: float
    cpu_seconds: float
    """User and system time of all processes of the run, s, their start included."""
    driver_peak_mib: float
    """Largest resident memory of the process that starts the workers."""
    worker_peak_mib: float
    """Largest resident memory of one worker."""
    driver_bytes: int
    """Number of bytes of tasks and results that passed through the driver."""

    @property
    def cpu_per_million(self) -> float:
        """Processor time for a million rows, s."""
        return self.cpu_seconds / self.rows * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyTasks:
    """Cost of tasks that do nothing, without the start of the workers."""

    workers: str
    tasks: int
    wall_seconds: float
    cpu_seconds: float
    """User and system time of all processes, s."""
    driver_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkScale:
    """All figures of a benchmark, with the machine and the revision."""

    machine: dict[str, Any]
    git_revision: str
    processes: int
    runs: list[BulkRun]
    empty: list[EmptyTasks]


def write_tracks_table(lake: Lake, rows: int, *, labels: bool = False) -> None:
    """Write about `rows` rows of repeated simulated tracks to the table `clean`, a few hundred tracks at a time."""

    def batches() -> Iterator[pa.RecordBatch]:
        for tracks in repeated_tracks(max(1, rows // _ROWS_OF_TRACK), labels=labels):
            bucket = bucket_of(tracks[TRACK_ID.name].to_numpy(np.int64))
            step = tracks.groupby(TRACK_ID.name).cumcount()
            added: dict[str, Any] = {
                "bucket": bucket,
                "step": step,
                "operator_id": None,
                "key_id": "k1",
            }
            if not labels:
                added[REENTRY_PHASE.name] = None
            whole = tracks.assign(**added)
            ordered = whole.sort_values("bucket", kind="stable")
            yield from pa.Table.from_pandas(ordered, schema=CLEAN.schema, preserve_index=False).to_batches()

    def reader(*_: object) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(CLEAN.schema, batches())

    lake.commit_once(CLEAN.name, [f"{rows} rows"], reader)


def measure(lake: Lake, repository: Path, version: str, processes: int) -> BulkRun:
    """Score the table `clean` once, in a process of its own.

    Raises:
        ReentryError: The command failed.
    """
    shutil.rmtree(Path(lake.location) / PREDICTIONS.name, ignore_errors=True)
    run = measured(
        [
            *("score-bulk", f"lake:{CLEAN.name}", "--lake", lake.location, "--repository", str(repository), "--json"),
            *("--model-version", version, "--processes", str(processes)),
        ]
    )
    summary = json.loads(run.output)
    source, result = (
        sum(lake.open(name).get_add_actions(flatten=True)["size_bytes"].to_pylist())
        for name in (CLEAN.name, PREDICTIONS.name)
    )
    return BulkRun(
        rows=summary["rows"],
        tracks=summary["tracks"],
        parts=summary["parts"],
        source_mib=source / 2**20,
        result_mib=result / 2**20,
        wall_seconds=run.wall_seconds,
        cpu_seconds=run.cpu_seconds,
        driver_peak_mib=run.peak_bytes / 2**20,
        worker_peak_mib=run.child_peak_bytes / 2**20,
        driver_bytes=summary["driver_bytes"],
    )


def nothing(task: int) -> int:
    """Return the task."""
    return task


def measure_empty(name: str, workers: Workers, tasks: int) -> EmptyTasks:
    """Run tasks that do nothing, after a few that start the workers."""
    list(workers.map(nothing, range(100)))
    before, begun, moved = tree_cpu_seconds(os.getpid()), time.perf_counter(), workers.driver_bytes
    if sorted(workers.map(nothing, range(tasks))) != list(range(tasks)):
        raise ReentryError("tasks were lost or computed twice", where=name)
    return EmptyTasks(
        workers=name,
        tasks=tasks,
        wall_seconds=time.perf_counter() - begun,
        cpu_seconds=tree_cpu_seconds(os.getpid()) - before,
        driver_bytes=workers.driver_bytes - moved,
    )


def run_benchmark(
    *, rows: Sequence[int], tasks: int, processes: int, repository: Path, version: str, out: Path
) -> BulkScale:
    """Measure all sizes and the empty tasks, and write `bulk.json` and `bulk.md`.

    Args:
        rows: Numbers of rows of the tables.
        tasks: Number of empty tasks; 0 measures none.
        processes: Number of worker processes.
        repository: Model repository with an exported version.
        version: Number or label of the version.
        out: Folder of the result; the tables are made there and removed again.

    Raises:
        ReentryError: The command fails, or Ray does not start.
    """
    out.mkdir(parents=True, exist_ok=True)
    empty = []
    if tasks:
        from pipeline.bulk.ray_tasks import LOCAL, RayTasks

        with ProcessPool(processes) as pool:
            empty.append(measure_empty(f"{processes} processes", pool, tasks))
        with RayTasks(LOCAL) as cluster:
            empty.append(measure_empty("Ray on this machine", cluster, tasks))
    runs = []
    for size in rows:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            lake = Lake(folder)
            write_tracks_table(lake, size)
            runs.append(measure(lake, repository, version, processes))
    scale = BulkScale(machine=machine(), git_revision=git_revision(), processes=processes, runs=runs, empty=empty)
    with whole_file(out / "bulk.json") as temporary:
        temporary.write_text(json.dumps(asdict(scale), indent=2) + "\n")
    with whole_file(out / "bulk.md") as temporary:
        temporary.write_text(markdown(scale))
    return scale


def markdown(scale: BulkScale) -> str:
    """Return the report as Markdown."""
    titles = (
        *("rows", "tracks", "parts", "table MiB", "results MiB", "CPU s", "CPU s per million rows"),
        *("peak driver MiB", "peak worker MiB", "bytes in the driver"),
    )
    runs = [
        [
            *(f"{run.rows:,}", f"{run.tracks:,}", f"{run.parts:,}", f"{run.source_mib:,.0f}", f"{run.result_mib:,.0f}"),
            *(f"{run.cpu_seconds:.1f}", f"{run.cpu_per_million:.2f}", f"{run.driver_peak_mib:,.0f}"),
            *(f"{run.worker_peak_mib:,.0f}", f"{run.driver_bytes:,}"),
        ]
        for run in scale.runs
    ]
    empty = [
        [
            *(each.workers, f"{each.tasks:,}", f"{each.cpu_seconds:.2f}", f"{each.wall_seconds:.2f}"),
            *(f"{1e3 * each.cpu_seconds / each.tasks:.3f}", f"{each.driver_bytes:,}"),
        ]
        for each in scale.empty
    ]
    about = scale.machine
    lines = [
        "# Bulk scoring",
        "",
        f"- machine: {about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB",
        f"- {scale.processes} worker processes; git revision {scale.git_revision}",
        "- CPU: all processes of the run, their start included",
        "",
        *table(titles, runs, words=0),
        "",
        *table(("empty tasks on", "tasks", "CPU s", "wall s", "CPU ms per task", "bytes in the driver"), empty),
        "",
        *_computed(scale),
    ]
    return "\n".join(lines) + "\n"


def _computed(scale: BulkScale) -> list[str]:
    """Return the table of clusters, computed from the largest run under assumptions that it names."""
    if not scale.runs:
        return []
    largest = max(scale.runs, key=lambda run: run.rows)
    cpu = largest.cpu_per_million * _CLUSTER_ROWS / 1e6
    factor = _CLUSTER_ROWS / largest.rows
    rows = [
        [f"{cores:,}", f"{cpu / cores / 60:.1f}", f"{largest.parts * factor / cores:,.0f}"] for cores in _CLUSTER_CORES
    ]
    return [
        f"Computed, not measured: {_CLUSTER_ROWS:,} rows on a cluster, from the run of {largest.rows:,} rows.",
        f"They take {cpu / 3600:.2f} core hours, if cores are as fast as here and the store keeps up with them.",
        f"About {largest.driver_bytes * factor / 2**20:,.1f} MiB would pass through the driver.",
        "",
        *table(("cores", "minutes, computed", "parts for each core"), rows, words=0),
    ]


def main(
    rows: Annotated[list[int], typer.Option(help="Rows of a table; repeatable.")] = [1_000_000, 10_000_000],  # noqa: B006
    tasks: Annotated[int, typer.Option(help="Number of empty tasks; 0 measures none.")] = 10_000,
    processes: Annotated[int, typer.Option(help="Number of worker processes.")] = 2,
    repository: Annotated[Path, typer.Option(help="Model repository with an exported version.")] = Path(
        "model_repository"
    ),
    model_version: Annotated[str, typer.Option(help="Number or label of the version that scores.")] = "production",
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("artifacts/bulk-scale"),
) -> None:
    """Measure processor time, memory and traffic of `reentry score-bulk`, and print the report.

    100 million rows need about 10 GB of disk space while they are measured.

    Example: `python -m perf.bulk --rows 1000000 --rows 100000000`
    """
    try:
        scale = run_benchmark(
            rows=rows, tasks=tasks, processes=processes, repository=repository, version=model_version, out=out
        )
        typer.echo(markdown(scale))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
