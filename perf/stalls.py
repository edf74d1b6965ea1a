"""Count of stalled requests, for each way in which Triton can queue the requests of a model.

    python -m perf.stalls --requests 50000

A wake-up that Triton's dynamic batcher loses leaves a request waiting for 500 ms. Clients in a closed loop send short
tracks; each request above 400 ms counts as stalled. Other load on the machine delays requests too, by other times.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from perf.analyzer.output import STALL
from perf.generator import Record, closed_loop
from perf.messages import http_address, prepare
from perf.tables import table
from perf.tuning.candidates import Subject, described
from perf.tuning.overlay import as_toml
from reentry.errors import ReentryError
from reentry.runtime.cores import cores
from reentry.schema import ENSEMBLE, REENTRY_TRACK
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.tuned import ModelTuning

STEPS: Final = (60, 70, 80, 90, 100)
"""Numbers of steps of the tracks, which are short, so that many requests are sent in little time."""
CLIENTS: Final = (2, 8, 32)
"""Numbers of clients. The fewer there are, the longer it takes until another request wakes the batcher."""
QUEUE: Final = 64
"""Bound of the queue in the settings that have one; more than the clients, so that no request is refused."""

_WARM_UP: Final = 200
"""Number of requests before the first ones that count."""
_TITLES: Final = ("model", "settings", "clients", "requests", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms")

_log = logging.getLogger(__name__)


def settings_to_compare(subject: Subject) -> list[ModelTuning]:
    """Return the settings to compare: those of an ensemble, or each kind of queue for a model of ONNX Runtime."""
    if subject.pythons:
        return [subject.present]
    plain = ModelTuning(instances=cores(), threads=1, batching=False)
    bounded = replace(plain, max_queue_size=QUEUE)
    return [plain, replace(plain, batching=True), bounded, replace(bounded, instances=cores() + 1)]


def measure_stalls(address: str, model: str, *, requests: int, clients: Sequence[int] = CLIENTS) -> dict[int, Record]:
    """Send requests of short tracks, divided among the numbers of clients, and return the record of each number.

    Raises:
        ServerUnavailableError: the server or the model is not available.
        ClientError: a request failed.
    """
    load = prepare(address, model, steps=STEPS)
    closed_loop(load, clients=clients[0], count=_WARM_UP)
    return {each: closed_loop(load, clients=each, count=requests // len(clients)) for each in clients}


def stalled_requests(record: Record) -> int:
    """Return the number of requests that took longer than `STALL`."""
    return int(np.count_nonzero(np.array(record.latencies) > STALL))


@contextmanager
def _server(repository: Path, subject: Subject, settings: ModelTuning) -> Iterator[str]:
    """Run an embedded server with the settings, and yield its HTTP address."""
    with tempfile.TemporaryDirectory(prefix="reentry-stalls-") as folder:
        tuned = None
        if settings != subject.present:
            tuned = Path(folder) / "tuned.toml"
            tuned.write_text(as_toml(subject.tables(settings)), encoding="utf-8")
        config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0, tuned=tuned)
        with EmbeddedServer(config) as server:
            yield server.http_url


def _row(model: str, settings: str, clients: int, record: Record) -> list[str]:
    times = [record.percentile(percent) for percent in (50, 99, 99.9)] + [max(record.latencies, default=float("nan"))]
    figures = [f"{record.per_second:,.0f}", *(f"{time:.1f}" for time in times)]
    count = f"{stalled_requests(record):,}"
    return [model, settings, str(clients), f"{record.sent:,}", *figures, count, f"{record.refusals.total():,}"]


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Model; may be repeated.  [default: reentry_track, reentry]")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="HTTP URL of a running server, measured as it is.  [default: embedded servers]")
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository of the embedded servers.")] = Path(
        "model_repository"
    ),
    requests: Annotated[int, typer.Option(help="Number of requests for each model and settings.", min=3)] = 50_000,
) -> None:
    """Count the stalled requests of each model, without and with Triton's dynamic batcher.

    Example: `python -m perf.stalls --model reentry_track --requests 50000`
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows: list[list[str]] = []
    try:
        for name in model or [REENTRY_TRACK.name, ENSEMBLE.name]:
            if url is not None:
                records = measure_stalls(http_address(url), name, requests=requests)
                rows += [_row(name, "as served", clients, record) for clients, record in records.items()]
                continue
            subject = Subject.of(repository, name)
            for settings in settings_to_compare(subject):
                _log.info(f"{name}: {described(settings)}")
                with _server(repository, subject, settings) as address:
                    records = measure_stalls(address, name, requests=requests)
                rows += [_row(name, described(settings), clients, record) for clients, record in records.items()]
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    typer.echo("\n".join(table((*_TITLES, f"above {STALL:g} ms", "refused"), rows, words=2)))


if __name__ == "__main__":
    typer.run(main)
