"""Load test of a Triton server: closed-loop clients at rising concurrency.

    python -m perf.load --url grpc://127.0.0.1:8001 --concurrency 1 --concurrency 16

Each client sends its next request when the last one is answered. A request carries whole tracks through the ensemble,
as `reentry predict` sends them. Latency is measured by the client and includes transport, queue, features, LSTM and
decision. Without --url an embedded server shares the machine with the clients. Its processor time per track is then
reported too, which other load on the machine does not distort.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from client.batching import RequestBatch
from client.connection import Array, Connection, Endpoint, ServerUnavailableError
from perf.processor import cpu_seconds
from perf.scoring import draw_flights
from reentry.errors import ClientError, ConfigError, ReentryError
from reentry.runtime.cores import cores
from reentry.schema import ENSEMBLE, MEASUREMENTS, TRACK_ID_TENSOR, TRACK_LENGTH
from reentry.serving import EmbeddedServer, ServerConfig

WARM_UP: Final = 1.0
"""Seconds of load before the first measurement."""

_TIMEOUT: Final = 30.0  # s, for one answer
_PAUSE: Final = 0.01  # s after a refusal, so that a full queue is not polled in a busy loop


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """Settings of a load test."""

    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of concurrent clients; each is measured in turn."""
    batch: int = 1
    """Number of tracks in one request."""
    steps: int = 900
    """Number of steps in each track."""
    seconds: float = 5.0
    """Duration of each measurement, s."""

    def __post_init__(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1:
            raise ConfigError("concurrency", expected="one count or more, at least 1", got=str(self.concurrency))
        if self.batch < 1 or self.steps < 1:
            raise ConfigError("batch and steps", expected="at least 1", got=f"batch {self.batch}, steps {self.steps}")
        if self.seconds <= 0.0:
            raise ConfigError("seconds", expected="more than 0", got=str(self.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Measurements at one concurrency."""

    concurrency: int
    tracks_per_second: float
    latencies: tuple[float, ...]
    """Latency of each answered request, s."""
    unanswered: int
    """Number of requests that the server refused because its queue was full, or did not answer."""
    server_seconds: float | None
    """Processor time of the server per track, s; None if the server runs on another machine."""

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies, ms."""
        return float(np.percentile(self.latencies, percent)) * 1e3


def measure_load(endpoint: Endpoint, config: LoadConfig, *, session: int | None = None) -> list[Level]:
    """Measure the server at each concurrency in turn.

    Args:
        endpoint: address of the server.
        config: settings of the test.
        session: session id of the server's processes if they run on this machine (`EmbeddedServer.process_id`).

    Raises:
        ClientError: the server is unreachable, refuses the request, or answered no request at some concurrency.
    """
    batch = RequestBatch(tuple(draw_flights(config.batch, config.steps)))
    inputs: dict[str, Array] = {
        TRACK_ID_TENSOR.name: batch.track_ids(),
        TRACK_LENGTH.name: batch.lengths(),
        MEASUREMENTS.name: batch.measurements(),
    }

    async def all_levels() -> list[Level]:
        async with Connection(endpoint, timeout=_TIMEOUT) as connection:
            await connection.max_batch(ENSEMBLE)  # raises if the server is unreachable
            await _load(connection, inputs, config.concurrency[0], WARM_UP, session)
            return [await _load(connection, inputs, count, config.seconds, session) for count in config.concurrency]

    return asyncio.run(all_levels())


async def _load(
    connection: Connection, inputs: Mapping[str, Array], concurrency: int, seconds: float, session: int | None
) -> Level:
    latencies: list[float] = []
    unanswered = 0
    spent = cpu_seconds(session) if session else 0.0
    begun = time.perf_counter()

    async def client() -> None:
        nonlocal unanswered
        while (asked := time.perf_counter()) < begun + seconds:
            try:
                await connection.infer(ENSEMBLE, inputs)
            except ServerUnavailableError:
                unanswered += 1
                await asyncio.sleep(_PAUSE)
            else:
                latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    if not latencies:
        raise ClientError("no request was answered", got=f"{unanswered} refused at concurrency {concurrency}")
    tracks = len(latencies) * len(inputs[TRACK_ID_TENSOR.name])
    return Level(
        concurrency=concurrency,
        tracks_per_second=tracks / (time.perf_counter() - begun),
        latencies=tuple(latencies),
        unanswered=unanswered,
        server_seconds=(cpu_seconds(session) - spent) / tracks if session else None,
    )


def _table(levels: Sequence[Level]) -> str:
    heading = ("concurrency", "tracks/s", "p50 ms", "p95 ms", "p99 ms", "unanswered", "CPU ms/track")
    rows = [heading] + [
        (
            str(level.concurrency),
            f"{level.tracks_per_second:,.0f}",
            *(f"{level.percentile(percent):.1f}" for percent in (50, 95, 99)),
            str(level.unanswered),
            "-" if level.server_seconds is None else f"{level.server_seconds * 1e3:.2f}",
        )
        for level in levels
    ]
    return "\n".join("".join(f"{cell:>14}" for cell in row) for row in rows)


def main(
    url: Annotated[str | None, typer.Option(help="URL of a running server.  [default: start an embedded one]")] = None,
    repository: Annotated[Path, typer.Option(help="Model repository of the embedded server.")] = Path(
        "model_repository"
    ),
    concurrency: Annotated[
        list[int] | None, typer.Option(help="Number of concurrent clients; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Tracks in one request.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps in each track.")] = 900,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 5.0,
) -> None:
    """Load a Triton server and print throughput and latency at each concurrency.

    Example: `python -m perf.load --concurrency 1 --concurrency 16`
    """
    try:
        config = LoadConfig(concurrency=tuple(concurrency or (1, 4, 16, 64)), batch=batch, steps=steps, seconds=seconds)
        session = None
        with ExitStack() as stack:
            if url is None:
                own = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
                server = stack.enter_context(EmbeddedServer(own))
                url, session = f"grpc://{server.grpc_url}", server.process_id
                typer.echo(f"embedded server; {cores()} cores for server and clients")
            levels = measure_load(Endpoint.parse(url), config, session=session)
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    typer.echo(f"{url}: {config.batch} x {config.steps:,} steps in a request, {config.seconds:g} s each")
    typer.echo(_table(levels))


if __name__ == "__main__":
    typer.run(main)
