"""Replay of live tracks through a Triton server: sends requests at their pace, and checks and times the answers."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from client.connection import ServerUnavailableError
from client.grpc_request import STREAM_METHOD
from client.stream.grpc_connection import Call, GrpcConnection
from perf.stream.config import StreamConfig
from perf.stream.monitor import Monitor
from perf.stream.pace import ClosedLoop, OpenLoop, Pace
from perf.stream.traffic import Traffic
from reentry.errors import ClientError
from reentry.schema import ACCEPTED, PROBABILITY

SAMPLES: Final = 8
"""Number of tracks whose probabilities are kept, to be compared with those of the whole track."""

_TIMEOUT: Final = 30.0
"""Longest wait for an answer, s."""
_BEHIND: Final = 10.0
"""Age of the oldest unanswered request, s, at which an open loop ends, because the server does not keep up."""
_TURN: Final = 64
"""Number of due requests that are sent before answers are read."""
_CHECK: Final = 1.0
"""Time between two checks that the server keeps up, s."""
_STARTS: Final = 64
"""Number of sequences that are started, or ended, at once."""


@dataclass(slots=True, kw_only=True)
class Record:
    """Record of the measured part of a replay. Times are in s."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    """Time from each request's due time to its answer."""
    lateness: array[float] = field(default_factory=lambda: array("d"))
    """Time from each request's due time to its sending."""
    updates: int = 0
    """Number of measurements that were answered within the duration."""
    unaccepted: int = 0
    """Number of measurements that the server did not accept, although all of them are valid and new."""
    errors: Counter[str] = field(default_factory=Counter)
    """Number of refused requests, by reason."""
    seconds: float = 0.0
    """Duration: that of the schedule, or shorter if the server did not keep up."""
    behind: bool = False
    """Whether an open loop ended early, because a request was unanswered for too long."""
    samples: dict[int, list[float]] = field(default_factory=dict)
    """Probabilities of some tracks, from their first measurement on."""


class Replay:
    """The sequences of a replay, through one stream for each feed."""

    def __init__(self, config: StreamConfig, traffic: Traffic, connections: Sequence[GrpcConnection]) -> None:
        """Open the streams; nothing is sent yet.

        Args:
            config: settings.
            traffic: the requests.
            connections: one connection for each feed.
        """
        self._config, self._traffic = config, traffic
        self._calls: list[tuple[GrpcConnection, Call]] = [
            (connection, connection.start(STREAM_METHOD, self._take, self._ended)) for connection in connections
        ]
        self._record = Record()
        self._samples: dict[int, list[tuple[int, list[float]]]] = defaultdict(list)
        tracks = np.unique(np.linspace(0, config.tracks - 1, min(SAMPLES, config.tracks)).astype(int)).tolist()
        for track in tracks:
            sequence, position = traffic.place_of(track)
            self._samples[sequence].append((position, []))
            self._record.samples[track] = self._samples[sequence][-1][1]
        self._unanswered: dict[int, float] = {}  # due time by the number of the request, oldest first
        self._numbers: defaultdict[int, deque[int]] = defaultdict(deque)  # of each sequence
        self._sent = 0
        self._measured = False
        self._end = 0.0
        self._outputs: list[str] = []
        self._pace: Pace
        self._message: Callable[[int], bytes]
        self._number = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.Handle | None = None
        self._is_scheduled = False

    async def run(self, monitor: Monitor) -> Record:
        """Start all sequences, send their requests for the duration, wait for the answers, and end the sequences.

        The monitor measures the part between the starts and the ends.

        Raises:
            ServerUnavailableError: the connection broke.
            ClientError: the server did not start a sequence, or left requests unanswered.
        """
        config, count = self._config, self._config.sequences
        await self._exchange(ClosedLoop(_STARTS, count=count), self._traffic.first)
        if self._record.errors:
            reason, refused = self._record.errors.most_common(1)[0]
            raise ClientError(f"the server refused to start {refused:,} of {count:,} sequences", got=reason)
        with monitor:
            begun = time.perf_counter()
            self._end = begun + config.duration
            pace: Pace
            if config.rate is None:
                pace = ClosedLoop(config.limit, end=self._end)
            else:
                pace = OpenLoop(begun, rate=config.rate * count, duration=config.duration)
            self._measured = True
            await self._exchange(pace, lambda number: self._traffic.message(number % count, number // count + 1))
            self._record.seconds = time.perf_counter() - begun if self._record.behind else config.duration
            self._measured = False
        self._samples.clear()
        if not self._record.behind:
            await self._exchange(ClosedLoop(_STARTS, count=count), self._traffic.last)
        return self._record

    async def _exchange(self, pace: Pace, message: Callable[[int], bytes]) -> None:
        """Send messages, numbered from 0, at a pace, and wait for all answers.

        Raises:
            ServerUnavailableError: a connection broke.
            ClientError: the server left requests unanswered.
        """
        self._pace, self._message, self._number = pace, message, 0
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._schedule()
        try:
            answered = -1
            while not self._done.done():
                await asyncio.wait({self._done}, timeout=_CHECK)
                if self._sent - len(self._unanswered) != answered:
                    answered, last = self._sent - len(self._unanswered), time.perf_counter()
                self._check(time.perf_counter() - last)
            self._done.result()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _check(self, silence: float) -> None:
        """Check that the server keeps up; `silence` is the time since the latest answer, s.

        Raises:
            ClientError: the server left requests unanswered.
        """
        now = time.perf_counter()
        if self._done.done() or not self._unanswered:
            return
        oldest = now - next(iter(self._unanswered.values()))
        is_open = self._measured and self._config.rate is not None and not self._pace.finished(now)
        if is_open and oldest > _BEHIND:
            self._record.behind = True
            self._done.set_result(None)
        elif min(silence, oldest) > _TIMEOUT:
            raise self._no_answer()

    def _schedule(self) -> None:
        """Send what is due in the next turn of the event loop, once all answers that have arrived are taken."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_due)

    def _send_due(self) -> None:
        """Send the requests that are due, and come back when the next one is."""
        self._is_scheduled = False
        if self._timer is not None:
            self._timer.cancel()
        if self._done.done():
            return
        now = time.perf_counter()
        turn = self._number + _TURN
        try:
            while self._number < turn and (due := self._pace.due(now, len(self._unanswered))) is not None:
                self._send(self._number, due)
                self._number += 1
        except Exception as error:  # nobody waits for a callback of the event loop
            self._fail(error)
            return
        if self._number == turn:
            self._schedule()
        elif self._pace.finished(now) and not self._unanswered:
            self._done.set_result(None)
        elif (wait := self._pace.wait(time.perf_counter())) is not None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._schedule)

    def _ended(self, code: int, reason: str) -> None:
        """End the replay, because a stream has ended."""
        self._fail(ServerUnavailableError(reason, got=f"the gRPC status {code}"))

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _no_answer(self) -> ClientError:
        config = self._config
        started = self._sent - len(self._unanswered)
        if started >= config.sequences:
            return ClientError(f"no answer within {_TIMEOUT:g} s")
        return ClientError(
            f"the server started {started:,} of {config.sequences:,} sequences, and then none for {_TIMEOUT:g} s",
            fix=f"raise max_candidate_sequences of {config.model.name}, or use fewer tracks or mode scan",
        )

    def _send(self, number: int, due: float) -> None:
        sequence = number % self._config.sequences
        self._numbers[sequence].append(self._sent)
        self._unanswered[self._sent] = due
        self._sent += 1
        connection, call = self._calls[sequence % len(self._calls)]
        connection.send(call, self._message(number))
        if self._measured:
            self._record.lateness.append(time.perf_counter() - due)

    def _take(self, content: bytes) -> None:
        """Time and check an answer."""
        self._schedule()
        now = time.perf_counter()
        answer = service_pb2.ModelStreamInferResponse.FromString(content)
        response = answer.infer_response
        sequence = int(response.id or -1)
        if not self._numbers[sequence]:
            self._fail(ClientError("an answer to no request", got=answer.error_message or response.id))
            return
        due = self._unanswered.pop(self._numbers[sequence].popleft())
        record = self._record
        if self._measured:
            record.latencies.append(now - due)
        if answer.error_message:
            record.errors[answer.error_message] += 1
            return
        if not self._outputs:
            self._outputs = [output.name for output in response.outputs]
        accepted = response.raw_output_contents[self._outputs.index(ACCEPTED.name)]
        for position, values in self._samples.get(sequence, ()):
            probability: Any = np.frombuffer(
                response.raw_output_contents[self._outputs.index(PROBABILITY.name)],
                triton_to_np_dtype(PROBABILITY.dtype),
            )
            values.append(float(probability[position]))
        if self._measured:
            record.unaccepted += accepted.count(0)
            if now <= self._end:
                record.updates += len(accepted)
