"""`reentry simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Argument(help="File to write: .csv or .parquet.")],
    tracks: Annotated[int, typer.Option(help="Number of flights.")] = 90,
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 0,
    profile: Annotated[str, typer.Option(help="Shape of the flights: trapezoid.")] = "trapezoid",
    labels: Annotated[bool, typer.Option(help="Write the column reentry_phase.")] = True,
) -> None:
    """Simulate flights and write them as a file of tracks.

    The profile `trapezoid` has the shape of the public flight-phase data: 600 to 1200 measurements a track, 0.5 s
    apart. An interrupted run leaves no file.

    Example: `reentry simulate data/train.csv --tracks 90 --seed 0`
    """
    from reentry.simulation import simulate_file

    rows = simulate_file(out, profile=profile, tracks=tracks, seed=seed, labels=labels)
    typer.echo(f"{out}: {tracks:,} tracks, {rows:,} rows, profile {profile}, seed {seed}")
