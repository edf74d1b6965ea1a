"""The command `reentry simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.interruption import interruption


def simulate(
    out: Annotated[Path, typer.Argument(help="File to write, .csv or .parquet.")],
    tracks: Annotated[int, typer.Option(help="Number of flights.")] = 90,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same file.")] = 0,
    profile: Annotated[str, typer.Option(help="Kind of flights: trapezoid or ballistic.")] = "trapezoid",
    severity: Annotated[
        int, typer.Option(help="Severity of the sensor errors, 0 (none) to 3; only for the profile ballistic.")
    ] = 0,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with [trapezoid], or with [ballistic], [shots] and [sensors].")
    ] = None,
    first_track_id: Annotated[
        int, typer.Option(help="Id of the first track, so that the tracks of several files differ.")
    ] = 0,
    labels: Annotated[bool, typer.Option(help="Write the column reentry_phase.")] = True,
    processes: Annotated[
        int | None, typer.Option(help="Number of processes that simulate at once.  [default: one per core]")
    ] = None,
) -> None:
    """Simulate flights and write them as a file of tracks.

    The profile `trapezoid` has the shape of the public flight-phase data: 600 to 1200 measurements per track, 0.5 s
    apart. The profile `ballistic` simulates missiles from boost to reentry and the sensors that observe them, with
    their errors; docs/simulation.md lists its settings. An interrupted run leaves no file.

    Example: `reentry simulate data/hard.parquet --profile ballistic --tracks 1000 --severity 1 --seed 0`
    """
    with interruption("no file was written"):
        from reentry.simulation import simulate_file

        rows = simulate_file(
            out,
            profile=profile,
            tracks=tracks,
            seed=seed,
            labels=labels,
            severity=severity,
            first_track_id=first_track_id,
            config=config,
            processes=processes,
        )
    with_severity = f", severity {severity}" if profile == "ballistic" else ""
    typer.echo(f"{out}: {tracks:,} tracks, {rows:,} rows, profile {profile}{with_severity}, seed {seed}")
