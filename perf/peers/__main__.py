"""Comparison of Triton with other servers of the same graph.

    python -m perf.peers --out artifacts/peers

`make run` must have trained and exported a version. See docs/performance.md for the method.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from perf.peers.campaign import compare
from perf.peers.report import markdown, write_report
from perf.peers.results import PeersConfig
from reentry.errors import ReentryError
from reentry.runtime.files import check_writable

_DEFAULT = PeersConfig()


def main(
    out: Annotated[Path, typer.Option(help="Folder of peers.md, peers.json and the environments.")] = Path(
        "artifacts/peers"
    ),
    repository: Annotated[Path, typer.Option(help="Model repository with an exported version.")] = _DEFAULT.repository,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint of that version, for PyTorch.")] = _DEFAULT.checkpoint,
    only: Annotated[list[str] | None, typer.Option(help="Name of a server to measure; may be repeated.")] = None,
    connections: Annotated[int, typer.Option(help="Kept-alive connections.")] = _DEFAULT.connections,
    rounds: Annotated[int, typer.Option(help="Number of rounds; the medians are reported.")] = _DEFAULT.rounds,
    seconds: Annotated[int, typer.Option(help="Seconds of each measurement.")] = _DEFAULT.seconds,
    steps: Annotated[int, typer.Option(help="Steps in each track.")] = _DEFAULT.steps,
    workers: Annotated[int, typer.Option(help="Workers of each server.  [default: number of cores]")] = 0,
) -> None:
    """Measure Triton and other servers of the same graph in turns, and write a report.

    Example: `python -m perf.peers --rounds 3 --seconds 5`
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        check_writable(out)
        config = PeersConfig(
            repository=repository,
            checkpoint=checkpoint,
            environments=out / "environments",
            only=tuple(only or ()),
            connections=connections,
            rounds=rounds,
            seconds=seconds,
            steps=steps,
            workers=workers or _DEFAULT.workers,
        )
        comparison = compare(config)
        written = write_report(comparison, out)
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    typer.echo(markdown(comparison))
    typer.echo(f"written: {', '.join(map(str, written))}")
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    typer.run(main)
