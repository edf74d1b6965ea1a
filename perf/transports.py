"""What a request to Triton costs its client: over HTTP and gRPC, by the connections here and by tritonclient.

    python -m perf.transports --repository model_repository --turns 5

The ways take turns. The processor time is that of this process, so that of the server does not count.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import typer
import uvloop

from client.batching import RequestBatch
from client.connection import Connection, Endpoint
from client.scoring import inputs_of
from perf.scoring import draw_flights
from perf.tables import table
from reentry.errors import ReentryError
from reentry.schema import ENSEMBLE
from reentry.serving import EmbeddedServer, ServerConfig

STEPS: Final = 900
_WARM_UP: Final = 50
_TIMEOUT: Final = 60.0
_TITLES: Final = ("way", "CPU ms per request", "of HTTP", "p50 ms")

Send = Callable[[RequestBatch], Awaitable[object]]


async def _tritonclient_http(address: str, stack: AsyncExitStack) -> Send:
    from tritonclient.http.aio import InferenceServerClient, InferInput

    client = await stack.enter_async_context(InferenceServerClient(address, conn_timeout=_TIMEOUT))

    async def send(batch: RequestBatch) -> object:
        values = inputs_of(batch)
        inputs = [InferInput(tensor.name, list(values[tensor.name].shape), tensor.dtype) for tensor in ENSEMBLE.inputs]
        for tensor in inputs:
            tensor.set_data_from_numpy(values[tensor.name()])
        result = await client.infer(ENSEMBLE.name, inputs)
        return {tensor.name: result.as_numpy(tensor.name) for tensor in ENSEMBLE.outputs}

    return send


async def _own(url: str, stack: AsyncExitStack) -> Send:
    connection = await stack.enter_async_context(Connection(Endpoint.parse(url), timeout=_TIMEOUT))
    return lambda batch: connection.infer(ENSEMBLE, inputs_of(batch))


async def _measure(send: Send, batches: Sequence[RequestBatch], requests: int) -> tuple[float, float]:
    """Send requests one after another; return the processor time of each and the median latency, ms."""
    latency = []
    used = time.process_time()
    for _, batch in zip(range(requests), cycle(batches), strict=False):
        begun = time.perf_counter()
        await send(batch)
        latency.append(time.perf_counter() - begun)
    return (time.process_time() - used) / requests * 1e3, median(latency) * 1e3


async def _compare(server: EmbeddedServer, *, tracks: int, turns: int, requests: int) -> list[list[str]]:
    drawn = draw_flights(8 * tracks, STEPS)
    batches = [RequestBatch(tuple(drawn[start : start + tracks])) for start in range(0, len(drawn), tracks)]
    async with AsyncExitStack() as stack:
        ways = {
            "HTTP": await _own(f"http://{server.http_url}", stack),
            "gRPC": await _own(f"grpc://{server.grpc_url}", stack),
            "tritonclient, HTTP": await _tritonclient_http(server.http_url, stack),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for send in ways.values():
            await _measure(send, batches, _WARM_UP)
        for _ in range(turns):
            for name, send in ways.items():
                found[name].append(await _measure(send, batches, requests))
    cpu = {name: median(each[0] for each in turns) for name, turns in found.items()}
    p50 = {name: median(each[1] for each in turns) for name, turns in found.items()}
    return [[name, f"{cpu[name]:.2f}", f"{cpu[name] / cpu['HTTP']:.2f}", f"{p50[name]:.2f}"] for name in ways]


def main(
    repository: Annotated[Path, typer.Option(help="Model repository of the embedded server.")] = Path(
        "model_repository"
    ),
    tracks: Annotated[int, typer.Option(help="Number of tracks in a request.", min=1)] = 1,
    turns: Annotated[int, typer.Option(help="Number of turns, whose medians count.", min=1)] = 5,
    requests: Annotated[int, typer.Option(help="Number of requests in each turn.", min=1)] = 200,
) -> None:
    """Compare the ways to send a request to Triton.

    Example: `python -m perf.transports --turns 5`
    """
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    try:
        with EmbeddedServer(config) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(_compare(server, tracks=tracks, turns=turns, requests=requests))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    typer.echo("\n".join(table(_TITLES, rows)))


if __name__ == "__main__":
    typer.run(main)
