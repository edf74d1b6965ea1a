"""Replay of live tracks through a Triton server: sends requests at their pace, and checks and times the answers.

One thread sends and receives, so that no lock or event loop delays a request.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any, Final

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from perf.stream.config import StreamConfig
from perf.stream.grpc_stream import GrpcStream
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
    """The sequences of a replay, through streams to one server."""

    def __init__(
        self,
        config: StreamConfig,
        traffic: Traffic,
        streams: Sequence[GrpcStream],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare a replay; nothing is sent yet.

        Args:
            config: settings.
            traffic: the requests.
            streams: one stream for each feed.
            clock: current time, s.
        """
        self._config, self._traffic, self._streams, self._clock = config, traffic, streams, clock
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

    def run(self, monitor: Monitor) -> Record:
        """Start all sequences, send their requests for the duration, wait for the answers, and end the sequences.

        The monitor measures the part between the starts and the ends.

        Raises:
            ServerUnavailableError: the connection broke.
            ClientError: the server did not start a sequence, or left requests unanswered.
        """
        config, count = self._config, self._config.sequences
        self._exchange(ClosedLoop(_STARTS, count=count), self._traffic.first)
        if self._record.errors:
            reason, refused = self._record.errors.most_common(1)[0]
            raise ClientError(f"the server refused to start {refused:,} of {count:,} sequences", got=reason)
        with monitor:
            begun = self._clock()
            self._end = begun + config.duration
            pace: Pace
            if config.rate is None:
                pace = ClosedLoop(config.limit, end=self._end)
            else:
                pace = OpenLoop(begun, rate=config.rate * count, duration=config.duration)
            self._measured = True
            self._exchange(pace, lambda number: self._traffic.message(number % count, number // count + 1))
            self._record.seconds = self._clock() - begun if self._record.behind else config.duration
            self._measured = False
        self._samples.clear()
        if not self._record.behind:
            self._exchange(ClosedLoop(_STARTS, count=count), self._traffic.last)
        return self._record

    def _exchange(self, pace: Pace, message: Callable[[int], bytes]) -> None:
        """Send messages, numbered from 0, at a pace, and wait for all answers.

        Raises:
            ClientError: the server left requests unanswered.
        """
        number = 0
        answered = self._clock()
        with DefaultSelector() as selector:
            for stream in self._streams:
                selector.register(stream, EVENT_READ)
            while True:
                now = self._clock()
                turn = number + _TURN
                while number < turn and (due := pace.due(now, len(self._unanswered))) is not None:
                    self._send(number, message(number), due)
                    number += 1
                for stream in self._streams:
                    stream.flush()
                    selector.modify(stream, EVENT_READ | EVENT_WRITE if stream.blocked else EVENT_READ)
                is_finished = pace.finished(now)
                if is_finished and not self._unanswered:
                    return
                wait = 0.0 if number == turn else pace.wait(now)
                got = False
                for key, events in selector.select(_TIMEOUT if wait is None else wait):
                    if events & EVENT_READ:
                        for answer in key.fileobj.receive():  # type: ignore[union-attr]
                            self._take(answer)
                            got = True
                now = self._clock()
                if got:
                    answered = now
                if self._unanswered:
                    oldest = now - next(iter(self._unanswered.values()))
                    if self._measured and not is_finished and oldest > _BEHIND and self._config.rate is not None:
                        self._record.behind = True
                        return
                    if now - answered > _TIMEOUT and oldest > _TIMEOUT:
                        raise self._no_answer(number)

    def _no_answer(self, number: int) -> ClientError:
        config = self._config
        if self._measured or number > config.sequences:
            return ClientError(f"no answer within {_TIMEOUT:g} s", where=self._streams[0].address)
        return ClientError(
            f"the server started {number - len(self._unanswered):,} of {config.sequences:,} sequences within "
            f"{_TIMEOUT:g} s",
            where=self._streams[0].address,
            fix=f"raise max_candidate_sequences of {config.model.name}, or use fewer tracks or mode scan",
        )

    def _send(self, number: int, message: bytes, due: float) -> None:
        sequence = number % self._config.sequences
        self._numbers[sequence].append(self._sent)
        self._unanswered[self._sent] = due
        self._sent += 1
        self._streams[sequence % len(self._streams)].put(message)
        if self._measured:
            self._record.lateness.append(self._clock() - due)

    def _take(self, content: bytes) -> None:
        """Time and check an answer."""
        now = self._clock()
        answer = service_pb2.ModelStreamInferResponse.FromString(content)
        response = answer.infer_response
        sequence = int(response.id or -1)
        if sequence < 0 or not self._numbers[sequence]:
            raise ClientError("an answer to no request", got=answer.error_message or response.id)
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
