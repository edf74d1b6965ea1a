"""Encoded HTTP requests of simulated tracks, for the load generator.

Shapes: B tracks of a request, T steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from client.batching import RequestBatch
from client.connection import Array, Connection, Endpoint
from client.http_channel import head_of_request
from perf.analyzer.inputs import INPUTS
from perf.scoring import draw_flights
from reentry.errors import ClientError, ConfigError
from reentry.schema import MEASUREMENTS, TRACK_ID_TENSOR, TRACK_LENGTH

_TIMEOUT: Final = 30.0
"""Seconds for the answer about the model."""
_TENSORS: Final = {tensor.name: tensor for tensor in (TRACK_ID_TENSOR, TRACK_LENGTH, MEASUREMENTS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The requests to send, and the server."""

    address: str
    """Address of the server for HTTP as host:port."""
    messages: Sequence[bytes]
    """Encoded requests, which are sent in turn."""


def prepare(address: str, model: str, *, steps: Sequence[int], batch: int = 1, seed: int = 0) -> Load:
    """Encode one request for each length, of simulated tracks, for a model that is served at an address.

    Args:
        address: HTTP address of the server as host:port.
        model: name of the model.
        steps: number of steps of the tracks of each request.
        batch: number of tracks in one request.
        seed: random seed of the tracks.

    Raises:
        ServerUnavailableError: the server or the model is not available.
        ClientError: the model has other inputs.
    """

    async def names() -> tuple[str, ...]:
        async with Connection(Endpoint(scheme="http", address=address), timeout=_TIMEOUT) as connection:
            return await connection.input_names(model)

    inputs = asyncio.run(names())
    if not set(inputs) <= set(INPUTS):
        raise ClientError(
            f"the model {model} cannot be measured",
            where=f"http://{address}",
            expected=f"inputs among {', '.join(INPUTS)}",
            got=", ".join(inputs),
        )
    messages = []
    for number, length in enumerate(steps):
        group = RequestBatch(tuple(draw_flights(batch, length, seed=seed + number)))
        tensors: dict[str, Array] = {
            TRACK_ID_TENSOR.name: group.track_ids(),
            TRACK_LENGTH.name: group.lengths(),
            MEASUREMENTS.name: group.measurements(),
        }
        messages.append(encoded(address, model, {name: tensors[name] for name in inputs}))
    return Load(address=address, messages=messages)


def encoded(address: str, model: str, inputs: Mapping[str, Array]) -> bytes:
    """Return an inference request with inputs by tensor name, which asks for binary outputs, as the bytes to send."""
    head = head_of_request(tuple((name, _TENSORS[name].dtype, values.shape) for name, values in inputs.items()))
    body = b"".join((head, *(values.tobytes() for values in inputs.values())))
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {address}",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(body)}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode() + body


def http_address(url: str) -> str:
    """Return the address as host:port of the URL of a server.

    Raises:
        ConfigError: the URL is not of HTTP.
    """
    endpoint = Endpoint.parse(url)
    if endpoint.scheme != "http":
        raise ConfigError("not an HTTP URL", expected="http://HOST:PORT", got=url)
    return endpoint.address
