"""Load on a running Triton: clients that wait for each answer before they ask again, at rising concurrency.

    python -m perf.load --url grpc://127.0.0.1:8001 --concurrency 1 --concurrency 16

A request carries whole tracks through the ensemble, as `reentry predict` sends them. Latency is what the client sees:
network, queue, features, network, decision. Without --url an embedded server shares the machine with the clients; its
processor time in each track then says what a core can do, whatever else the machine is busy with.
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
"""s of load before the first measurement."""

_TIMEOUT: Final = 30.0  # s, for one answer
_PAUSE: Final = 0.01  # s after a refusal, or a full queue would be asked in a busy loop


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """What is asked of the server."""

    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    """Clients at once; each count is measured after the other."""
    batch: int = 1
    """Tracks in one request."""
    steps: int = 900
    """Steps of each track."""
    seconds: float = 5.0
    """s of each measurement."""

    def __post_init__(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1:
            raise ConfigError("concurrency", expected="one count or more, at least 1", got=str(self.concurrency))
        if self.batch < 1 or self.steps < 1:
            raise ConfigError("batch and steps", expected="at least 1", got=f"batch {self.batch}, steps {self.steps}")
        if self.seconds <= 0.0:
            raise ConfigError("seconds", expected="more than 0", got=str(self.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One concurrency, measured."""

    concurrency: int
    tracks_per_second: float
    latencies: tuple[float, ...]
    """s, of each answered request."""
    unanswered: int
    """Requests that the server refused for a full queue, or did not answer."""
    server_seconds: float | None
    """s of processor time that the server took for each track; None for a server elsewhere."""

    def percentile(self, percent: float) -> float:
        """In ms."""
        return float(np.percentile(self.latencies, percent)) * 1e3


def measure_load(endpoint: Endpoint, config: LoadConfig, *, session: int | None = None) -> list[Level]:
    """Load the server at each concurrency in turn.

    Args:
        endpoint: the server.
        config: the load.
        session: that of the server's processes, where they are on this machine: `EmbeddedServer.process_id`.

    Raises:
        ClientError: the server is not there, refuses the request, or answered nothing at one of the levels.
    """
    batch = RequestBatch(tuple(draw_flights(config.batch, config.steps)))
    inputs: dict[str, Array] = {
        TRACK_ID_TENSOR.name: batch.track_ids(),
        TRACK_LENGTH.name: batch.lengths(),
        MEASUREMENTS.name: batch.measurements(),
    }

    async def all_levels() -> list[Level]:
        async with Connection(endpoint, timeout=_TIMEOUT) as connection:
            await connection.max_batch(ENSEMBLE)  # is it there at all?
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
    url: Annotated[str | None, typer.Option(help="A running server.  [default: an embedded one]")] = None,
    repository: Annotated[Path, typer.Option(help="Model repository of the embedded server.")] = Path(
        "model_repository"
    ),
    concurrency: Annotated[list[int] | None, typer.Option(help="Clients at once; give it again for more.")] = None,
    batch: Annotated[int, typer.Option(help="Tracks in one request.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps of each track.")] = 900,
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
