"""Benchmark of `reentry features build`: processor time and memory of a full build, and of one after a small change.

    python -m perf.feature_build --rows 270000 --rows 2700000

A few hundred simulated tracks with labels are repeated under new ids and at later times. After the full build, the
rows of one bucket of `clean` are written again, and the features are built once more. Each build is a process of its
own. Processor time and memory do not depend on other load on the machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from perf.bulk import write_tracks_table
from perf.measured_process import measured
from perf.tables import table
from pipeline.lake.lake import Lake
from pipeline.lake.tables import CLEAN
from pipeline.lake.whole_tracks import rows_of_bucket
from reentry.errors import ReentryError


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildCost:
    """Figures of one run of `reentry features build`."""

    build: str
    """`full` after an empty table, `one bucket` after a change of one bucket of `clean`."""
    rows: int
    """Number of rows of the built version."""
    computed: int
    """Number of buckets that the run computed."""
    cpu_seconds: float
    """User and system time, s, the start of the process included."""
    peak_mib: float
    """Largest resident memory."""


def measure(rows: int, *, orbit: bool) -> list[BuildCost]:
    """Build the features of a table of about `rows` rows, change one bucket of it, and build them again.

    Raises:
        ReentryError: A build failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        write_tracks_table(lake, rows, labels=True)
        full = _build("full", lake, orbit=orbit)
        lake.rewrite(CLEAN.name, "0", lambda clean: rows_of_bucket(clean, 0))
        return [full, _build("one bucket", lake, orbit=orbit)]


def _build(name: str, lake: Lake, *, orbit: bool) -> BuildCost:
    run = measured(["features", "build", "--lake", lake.location, "--json", "--orbit" if orbit else "--no-orbit"])
    summary = json.loads(run.output)
    return BuildCost(
        build=name,
        rows=summary["rows"],
        computed=summary["computed"],
        cpu_seconds=run.cpu_seconds,
        peak_mib=run.peak_bytes / 2**20,
    )


def markdown(costs: Sequence[BuildCost]) -> str:
    """Return the figures as Markdown."""
    rows = [
        [each.build, f"{each.rows:,}", str(each.computed), f"{each.cpu_seconds:.1f}", f"{each.peak_mib:,.0f}"]
        for each in costs
    ]
    return "\n".join(table(("build", "rows", "buckets computed", "CPU s", "peak MiB"), rows))


def main(
    rows: Annotated[list[int], typer.Option(help="Rows of a table; repeatable.")] = [270_000, 2_700_000],  # noqa: B006
    orbit: Annotated[bool, typer.Option(help="Also compute the features of the orbit filter.")] = False,
) -> None:
    """Measure processor time and memory of `reentry features build`, and print the report.

    Example: `python -m perf.feature_build --rows 2700000`
    """
    try:
        typer.echo(markdown([cost for size in rows for cost in measure(size, orbit=orbit)]))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
