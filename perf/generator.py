"""Load generator over HTTP that records each request: in a closed loop, or at a rate without waiting for answers.

It sends requests that are encoded once and reads only the status and the length of the answers, over kept-alive
connections, so that it takes little of the processor time that it may share with the server. Clients in a closed loop
send their next request after the last answer. An open loop has a schedule, as independent users have. Its latencies
count from the scheduled time: if the generator sends a request late, the wait is part of the latency, and the lateness
is recorded as well.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from client.connection import ServerUnavailableError
from perf.messages import Load
from reentry.errors import ClientError

LATE: Final = 5.0
"""Lateness in ms from which a request of an open loop counts as late."""
CONNECTIONS: Final = 800
"""Largest number of requests in flight in an open loop. It fits the usual limit of 1,024 open files."""

_TIMEOUT: Final = 30.0
"""Seconds without any answer after which the requests in flight have failed."""
_PAUSE: Final = 0.01
"""Seconds that a client in a closed loop waits after a refusal, so that a full queue is not polled in a busy loop."""
_TURN: Final = 8
"""Number of late requests that are sent before answers are read."""
_OK: Final = 200
_UNAVAILABLE: Final = 503
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STATUS: Final = slice(len("HTTP/1.1 "), len("HTTP/1.1 200"))


@dataclass(slots=True, kw_only=True)
class Record:
    """Record of the requests of one run. Latencies and lateness are in ms."""

    latencies: list[float] = field(default_factory=list)
    """Latency of each answered request; in an open loop from the scheduled time."""
    in_time: list[float] = field(default_factory=list)
    """Those of the latencies whose request was sent at most `LATE` ms after its scheduled time."""
    refusal_times: list[float] = field(default_factory=list)
    """Time to the refusal of each refused request that was sent in time."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Number of requests that the server refused with status 503, by its reason."""
    failures: Counter[str] = field(default_factory=Counter)
    """Number of requests that failed in another way, by status and reason."""
    lateness: list[float] = field(default_factory=list)
    """Time from the scheduled sending of each request to the actual one; empty for a closed loop."""
    overrun: bool = False
    """Whether an open loop ended early, because `CONNECTIONS` requests were unanswered."""
    seconds: float = 0.0
    """Duration of the run, from the first request to the last answer."""

    @property
    def sent(self) -> int:
        """Number of requests that were answered or refused, or that failed."""
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


def closed_loop(load: Load, *, clients: int, count: int | None = None, seconds: float = float("inf")) -> Record:
    """Send requests from clients that each wait for their answer, until a number of requests or a duration is over.

    Args:
        load: requests and server.
        clients: number of clients.
        count: number of requests of all clients together; None for no limit.
        seconds: duration after which no request is sent.

    Raises:
        ServerUnavailableError: the server is unreachable.
        ClientError: a request failed in another way than by a refusal, or was not answered in time.
    """

    async def run() -> Record:
        numbers = _numbers(count, seconds)  # begins with the first request

        def next_request(channel: _Channel) -> None:
            number = next(numbers, None)
            if number is not None:
                sender.send(channel, number, time.perf_counter())

        sender = _Sender(load, next_request, pause=_PAUSE)
        channels = [await sender.connect() for _ in range(clients)]
        sender.begin()
        for channel in channels:
            next_request(channel)
        return await sender.finished()

    return asyncio.run(run())


def open_loop(load: Load, *, rate: float, seconds: float) -> Record:
    """Send requests at a constant rate, whether or not earlier ones are answered, and wait for all answers.

    The loop ends early if `CONNECTIONS` requests are unanswered, since the server then queues without a useful bound.

    Args:
        load: requests and server.
        rate: requests per second.
        seconds: duration of the sending.

    Raises:
        ServerUnavailableError: the server is unreachable.
        ClientError: a request failed in another way than by a refusal, or was not answered in time.
    """

    async def run() -> Record:
        idle: list[_Channel] = []
        sender = _Sender(load, idle.append)
        count = round(rate * seconds)
        idle += [await sender.connect() for _ in range(min(CONNECTIONS, count))]
        begun = sender.begin()
        for number in range(count):
            due = begun + number / rate
            wait = due - time.perf_counter()
            if wait > 0.0:
                await asyncio.sleep(wait)
            elif number % _TURN == 0:
                await asyncio.sleep(0.0)  # answers are read even if the schedule is late
            if not idle:
                sender.record.overrun = True
                break
            sender.record.lateness.append((time.perf_counter() - due) * 1e3)
            sender.send(idle.pop(), number, due)
        return await sender.finished()

    return asyncio.run(run())


class _Channel(asyncio.Protocol):
    """A kept-alive connection with at most one request in flight."""

    def __init__(self, answered: Callable[[_Channel, int, bytes], None]) -> None:
        self._answered = answered
        self._received = b""
        self.transport: asyncio.Transport | None = None
        self.due: float | None = None
        """Time at which the request in flight was due; None if there is none."""
        self.in_time = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._received, 0, head)
        begin = head + 4
        end = begin + (int(length[1]) if length else 0)
        if len(self._received) >= end:
            received, self._received = self._received, b""
            self._answered(self, int(received[_STATUS]), received[begin:end])

    def connection_lost(self, exc: Exception | None) -> None:
        if self.due is not None:
            self._answered(self, 0, str(exc or "the server closed the connection").encode())


class _Sender:
    """Sends encoded requests and records what becomes of them."""

    def __init__(self, load: Load, ready: Callable[[_Channel], None], *, pause: float = 0.0) -> None:
        """Prepare to send.

        Args:
            load: requests and server.
            ready: receives each connection whose request was answered or refused.
            pause: seconds after a refusal before the connection is handed over.
        """
        self._load = load
        self._ready = ready
        self._pause = pause
        self._channels: list[_Channel] = []
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._begun = 0.0
        self.record = Record()

    def begin(self) -> float:
        """Return the time, from which the duration of the run counts."""
        self._begun = time.perf_counter()
        return self._begun

    async def connect(self) -> _Channel:
        """Open a connection."""
        host, _, port = self._load.address.rpartition(":")
        try:
            _, channel = await asyncio.get_running_loop().create_connection(
                lambda: _Channel(self._answered), host.strip("[]"), int(port)
            )
        except OSError as error:
            raise ServerUnavailableError(str(error), where=f"http://{self._load.address}") from error
        self._channels.append(channel)
        return channel

    def send(self, channel: _Channel, number: int, due: float) -> None:
        """Send a request that was due at a time."""
        messages = self._load.messages
        channel.due, channel.in_time = due, (time.perf_counter() - due) * 1e3 <= LATE
        self._in_flight += 1
        self._idle.clear()
        if channel.transport is None or channel.transport.is_closing():
            self._answered(channel, 0, b"the server closed the connection")
        else:
            channel.transport.write(messages[number % len(messages)])

    async def finished(self) -> Record:
        """Wait for the answers to all requests, and return the record.

        Raises:
            ClientError: a request failed in another way than by a refusal, or was not answered in time.
        """
        while self._in_flight:
            answered = self.record.sent
            try:
                await asyncio.wait_for(self._idle.wait(), _TIMEOUT)
            except TimeoutError:
                if self.record.sent == answered:
                    self.record.failures[f"no answer within {_TIMEOUT:g} s"] += self._in_flight
                    break
        self.record.seconds = time.perf_counter() - self._begun
        for channel in self._channels:
            channel.due = None
            if channel.transport is not None:
                channel.transport.abort()
        if self.record.failures:
            reason, count = self.record.failures.most_common(1)[0]
            where = f"http://{self._load.address}"
            raise ClientError(f"{count:,} of {self.record.sent:,} requests failed", where=where, got=reason)
        return self.record

    def _answered(self, channel: _Channel, status: int, body: bytes) -> None:
        """Record an answer, and hand the connection over for the next request. Status 0 is a lost connection."""
        assert channel.due is not None, "set by `send`"
        latency = (time.perf_counter() - channel.due) * 1e3
        channel.due = None
        record = self.record
        if status == _OK:
            record.latencies.append(latency)
            if channel.in_time:
                record.in_time.append(latency)
        elif status == _UNAVAILABLE:
            record.refusals[_reason(body)] += 1
            if channel.in_time:
                record.refusal_times.append(latency)
        else:
            record.failures[f"HTTP status {status}: {_reason(body)}" if status else body.decode(errors="replace")] += 1
        if status == _UNAVAILABLE and self._pause:
            asyncio.get_running_loop().call_later(self._pause, self._hand_over, channel)
        else:
            self._hand_over(channel)

    def _hand_over(self, channel: _Channel) -> None:
        self._in_flight -= 1
        if channel.transport is not None and not channel.transport.is_closing():
            self._ready(channel)
        if not self._in_flight:
            self._idle.set()


def _reason(body: bytes) -> str:
    """Return the reason in the JSON body of an error of Triton, or the start of another body."""
    found = re.search(rb'"error":"(.*?)"\}?', body)
    return (found[1] if found else body[:300]).decode(errors="replace")


def _numbers(count: int | None, seconds: float) -> Iterator[int]:
    """Yield ascending numbers until `count` or the end of a duration."""
    end = time.perf_counter() + seconds
    number = 0
    while (count is None or number < count) and time.perf_counter() < end:
        yield number
        number += 1
