"""Load generator over gRPC that records each request: in a closed loop, or at a rate without waiting for answers.

It sends messages that are encoded once, and does not decode the answers, so that it takes little of the processor time
that it may share with the server. Clients in a closed loop send their next request after the last answer. An open loop
has a schedule, as independent users have. Its latencies count from the scheduled time: if the generator sends a request
late, the wait is part of the latency, and the lateness is reported as well.

Shapes: B tracks of a request, T steps.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from client.batching import RequestBatch
from client.connection import Array, Connection, Endpoint
from perf.analyzer.inputs import INPUTS
from perf.scoring import draw_flights
from reentry.errors import ClientError
from reentry.schema import MEASUREMENTS, TRACK_ID_TENSOR, TRACK_LENGTH

LATE: Final = 5.0
"""Lateness in ms from which a request of an open loop counts as late."""

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_TIMEOUT: Final = 30.0
"""Seconds for one answer."""
_LARGEST_MESSAGE: Final = 2**31 - 1
_TENSORS: Final = {tensor.name: tensor for tensor in (TRACK_ID_TENSOR, TRACK_LENGTH, MEASUREMENTS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The requests to send, and the server."""

    address: str
    """Address of the server for gRPC as host:port."""
    messages: Sequence[bytes]
    """Encoded requests, which are sent in turn."""


@dataclass(slots=True, kw_only=True)
class Record:
    """Record of the requests of one run. Latencies and lateness are in ms."""

    latencies: list[float] = field(default_factory=list)
    """Latency of each answered request; in an open loop from the scheduled time."""
    refusal_times: list[float] = field(default_factory=list)
    """Time from a request to its refusal."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Number of requests that the server refused as UNAVAILABLE, by its reason."""
    failures: Counter[str] = field(default_factory=Counter)
    """Number of requests that failed in another way, by status and reason."""
    lateness: list[float] = field(default_factory=list)
    """Time from the scheduled sending of each request to the actual one; empty for a closed loop."""
    seconds: float = 0.0
    """Duration of the run, from the first request to the last answer."""

    @property
    def sent(self) -> int:
        """Number of requests."""
        return len(self.latencies) + self.refusals.total() + self.failures.total()

    @property
    def per_second(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    @property
    def late_share(self) -> float:
        """Share of the requests that were sent more than `LATE` ms after their scheduled time."""
        return float(np.mean(np.array(self.lateness) > LATE)) if self.lateness else 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies of answered requests; NaN if no request was answered."""
        return percentile(self.latencies, percent)


def percentile(times: Sequence[float], percent: float) -> float:
    """Return a percentile of times; NaN if there are none."""
    return float(np.percentile(times, percent)) if times else float("nan")


def prepare(address: str, model: str, *, steps: Sequence[int], batch: int = 1, seed: int = 0) -> Load:
    """Encode one request for each length, of simulated tracks, for a model that is served at an address.

    Args:
        address: gRPC address of the server as host:port.
        model: name of the model.
        steps: number of steps of the tracks of each request.
        batch: number of tracks in one request.
        seed: random seed of the tracks.

    Raises:
        ServerUnavailableError: the server or the model is not available.
        ClientError: the model has other inputs.
    """

    async def names() -> tuple[str, ...]:
        async with Connection(Endpoint(scheme="grpc", address=address), timeout=_TIMEOUT) as connection:
            return await connection.input_names(model)

    inputs = asyncio.run(names())
    if not set(inputs) <= set(INPUTS):
        raise ClientError(
            f"the model {model} cannot be measured",
            where=f"grpc://{address}",
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
        messages.append(encoded(model, {name: tensors[name] for name in inputs}))
    return Load(address=address, messages=messages)


def encoded(model: str, inputs: Mapping[str, Array]) -> bytes:
    """Return the message of an inference request with inputs by tensor name."""
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    request = ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        request.inputs.add(name=name, datatype=_TENSORS[name].dtype, shape=values.shape)
        request.raw_input_contents.append(np.ascontiguousarray(values).tobytes())
    return bytes(request.SerializeToString())


def closed_loop(load: Load, *, clients: int, count: int | None = None, seconds: float = float("inf")) -> Record:
    """Send requests from clients that each wait for their answer, until a number of requests or a duration is over.

    Args:
        load: requests and server.
        clients: number of clients.
        count: number of requests of all clients together; None for no limit.
        seconds: duration after which no request is sent.

    Raises:
        ClientError: a request failed in another way than by a refusal.
    """

    async def run() -> Record:
        async with _Sender(load) as sender:
            numbers = _numbers(count, seconds)

            async def client() -> None:
                for number in numbers:
                    await sender.send(number, time.perf_counter())

            await asyncio.gather(*(client() for _ in range(clients)))
            return sender.finished()

    return asyncio.run(run())


def open_loop(load: Load, *, rate: float, seconds: float) -> Record:
    """Send requests at a constant rate, whether or not earlier ones are answered, and wait for all answers.

    Args:
        load: requests and server.
        rate: requests per second.
        seconds: duration of the sending.

    Raises:
        ClientError: a request failed in another way than by a refusal.
    """

    async def run() -> Record:
        async with _Sender(load) as sender:
            begun = time.perf_counter()
            requests = set()
            for number in range(round(rate * seconds)):
                due = begun + number / rate
                # A pause of 0 lets answers arrive in between; the clock of the event loop is not exact below 1 ms.
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                sender.record.lateness.append((time.perf_counter() - due) * 1e3)
                request = asyncio.ensure_future(sender.send(number, due))
                requests.add(request)
                request.add_done_callback(requests.discard)
            await asyncio.gather(*requests)
            return sender.finished()

    return asyncio.run(run())


class _Sender:
    """A gRPC channel that sends encoded requests and records what becomes of them."""

    def __init__(self, load: Load) -> None:
        import grpc

        self._load = load
        self._unavailable = grpc.StatusCode.UNAVAILABLE
        self._error = grpc.aio.AioRpcError
        limits = [(f"grpc.max_{way}_message_length", _LARGEST_MESSAGE) for way in ("send", "receive")]
        self._channel = grpc.aio.insecure_channel(load.address, options=limits)
        self._call = self._channel.unary_unary(_METHOD)
        self._begun = 0.0
        self.record = Record()

    async def __aenter__(self) -> _Sender:
        await self._channel.channel_ready()
        self._begun = time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, number: int, due: float) -> None:
        """Send a request and record the time from when it was due to its answer or refusal."""
        messages = self._load.messages
        try:
            await self._call(messages[number % len(messages)], timeout=_TIMEOUT)
        except self._error as error:
            reason = str(error.details())
            if error.code() is self._unavailable:
                self.record.refusals[reason] += 1
                self.record.refusal_times.append((time.perf_counter() - due) * 1e3)
            else:
                self.record.failures[f"{error.code().name}: {reason}"] += 1
        else:
            self.record.latencies.append((time.perf_counter() - due) * 1e3)

    def finished(self) -> Record:
        """Return the record.

        Raises:
            ClientError: a request failed in another way than by a refusal.
        """
        self.record.seconds = time.perf_counter() - self._begun
        if self.record.failures:
            reason, count = self.record.failures.most_common(1)[0]
            raise ClientError(
                f"{count:,} of {self.record.sent:,} requests failed", where=self._load.address, got=reason
            )
        return self.record


def _numbers(count: int | None, seconds: float) -> Iterator[int]:
    """Yield ascending numbers until `count` or the end of a duration."""
    end = time.perf_counter() + seconds
    number = 0
    while (count is None or number < count) and time.perf_counter() < end:
        yield number
        number += 1
