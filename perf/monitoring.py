"""Benchmark of the cost of the Python models' metrics: a server with metrics against one without.

    python -m perf.monitoring --repeats 15

Runs alternate between the two servers. Besides the elapsed time, the processor time of each server is measured, which
other load on the machine does not distort. The second server differs only in that track_decision counts nothing.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from perf.processor import cpu_seconds
from perf.scoring import ScoringMethod, best, draw_flights, through_triton
from reentry.errors import ReentryError
from reentry.schema import TRACK_DECISION
from reentry.serving import EmbeddedServer, ServerConfig

_IN_FLIGHT: Final = (2, 4)

_SILENT: Final = """

class TrackMetrics:
    def __init__(self, *_, **__): pass
    def add(self, **_): pass
    def close(self): pass

class TrainingRanges:
    def __init__(self, *_): pass
    def of(self, _): return None
"""


def without_metrics(repository: Path, folder: Path) -> Path:
    """Copy the repository into `folder`, with a track_decision that counts nothing."""
    copy = shutil.copytree(repository, folder / "silent")
    with (copy / f"{TRACK_DECISION.name}/1/model.py").open("a") as model:
        model.write(_SILENT)
    return copy


def compare(*, tracks: int, steps: int, batch: int, repository: Path, repeats: int) -> str:
    """Score the tracks alternately with each server, and return the cost of the metrics as text."""
    flights = draw_flights(tracks, steps)
    with tempfile.TemporaryDirectory(prefix="reentry-perf-") as folder:
        silent = without_metrics(repository, Path(folder))
        with _server(repository) as counting, _server(silent) as mute:
            methods = [
                best([through_triton(server, flights, batch=batch, in_flight=n) for n in _IN_FLIGHT])
                for server in (counting, mute)
            ]
            seconds, cpu = [], []
            for _ in range(repeats):
                runs = [_run(method, server) for method, server in zip(methods, (counting, mute), strict=True)]
                seconds.append(runs[0][0] / runs[1][0])
                cpu.append(runs[0][1] / runs[1][1])
    return (
        f"{tracks:,} tracks of {steps:,} steps in batches of {batch}, {repeats} alternating pairs; the metrics "
        f"add {_spread(cpu)} to the server's CPU time and {_spread(seconds)} to the elapsed time"
    )


def _run(method: ScoringMethod, server: EmbeddedServer) -> tuple[float, float]:
    """Score once and return the elapsed time and the processor time of the server, s."""
    before, begun = cpu_seconds(server.process_id), time.perf_counter()
    method.run()
    return time.perf_counter() - begun, cpu_seconds(server.process_id) - before


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle - 1:+.1%} (quartiles {low - 1:+.1%} and {high - 1:+.1%})"


def _server(repository: Path) -> EmbeddedServer:
    return EmbeddedServer(ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0))


def main(
    tracks: Annotated[int, typer.Option(help="Number of tracks.")] = 1000,
    steps: Annotated[int, typer.Option(help="Steps in each track.")] = 900,
    batch: Annotated[int, typer.Option(help="Tracks in one request.")] = 16,
    repository: Annotated[Path, typer.Option(help="Model repository with an exported version.")] = Path(
        "model_repository"
    ),
    repeats: Annotated[int, typer.Option(help="Number of pairs of runs.")] = 11,
) -> None:
    """Score tracks with and without metrics, and print the cost of the metrics.

    Example: `python -m perf.monitoring --repeats 11`
    """
    try:
        typer.echo(compare(tracks=tracks, steps=steps, batch=batch, repository=repository, repeats=repeats))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
