"""A feed as one sequence for each track: each measurement is one request.

A sequence starts with a request beside the stream, because the server lets it wait while it has no free slot. The
other measurements of the track follow on the stream once the first one is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from client.connection import RefusedError, ServerUnavailableError
from client.grpc_request import SequenceFlags, row_head, row_request
from client.stream.replay_buffer import Replay
from client.stream.sequence_stream import Outputs, SequenceStream, StartRequiredError
from client.stream.session import NEARLY, Session
from client.stream.state import FeedState, Work
from client.stream.statistics import ReplayReason
from client.stream.track_table import Slots
from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_STREAM

_INVALID_ROW: Final = np.full(len(MEASUREMENT_COLUMNS), np.nan)
"""Measurement that changes nothing, for the request that ends a sequence."""
_WINDOW: Final = 256
"""Measurements in flight, enough for batches of the server."""
_GRACE: Final = 2.0
"""Time beyond the timeout of a start in which the server may say that it had no slot, s."""
_STARTS: Final = 64
"""Sequences that may start at once. Proxies allow 100 calls on a connection."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """A track as this connection sees it."""

    slot: int
    correlation_id: str
    head: bytes
    """What its requests have in common."""
    running: bool = False
    """Whether the server has started the sequence, so that measurements may follow on the stream."""
    starting: bool = False
    in_flight: int = 0
    """Requests on the stream, or in the queue for it, that are not answered."""
    reason: ReplayReason | None = None
    """Why it is started again; None if the connection knows no reason."""
    waiting: list[tuple[Work, int]] = field(default_factory=list)
    """Measurements that follow once the sequence has started."""


@dataclass(frozen=True, slots=True, eq=False)
class _TrackRequest:
    """One measurement."""

    source: Work | Replay | None
    """Where it comes from; None for the request that ends a sequence."""
    positions: slice
    """Its position in the source."""
    sequence: _Sequence
    start: bool = False
    """Whether the sequence begins with it."""


class TrackSession(Session[_TrackRequest]):
    """One connection of a feed in mode `tracks`."""

    def __init__(
        self, state: FeedState, stream: SequenceStream, *, timeout: float, idle: float, reason: ReplayReason
    ) -> None:
        super().__init__(state, stream, window=_WINDOW, timeout=timeout, idle=idle, reason=reason)
        self._nearly_idle = NEARLY * idle
        self._sequences: dict[int, _Sequence] = {}
        self._ending: set[str] = set()
        self._blocked: dict[str, _Sequence] = {}  # tracks whose earlier sequence has not ended yet
        self._outbox: deque[_TrackRequest] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._start_slots = asyncio.Semaphore(_STARTS)

    async def _send(self, works: list[Work]) -> None:
        for work in works:
            await self._send_one(work)

    async def _send_one(self, work: Work) -> None:
        for position in np.flatnonzero(work.unanswered).tolist():
            slot = int(work.slots[position])
            sequence = self._sequences.get(slot)
            if sequence is None:
                name = f"{self._state.sequence}/{self._state.tracks.track_id[slot]}"
                head = row_head(REENTRY_STREAM, SequenceFlags(correlation_id=name))
                sequence = self._sequences[slot] = _Sequence(slot, name, head)
            if sequence.running:
                self._queue(_TrackRequest(work, slice(position, position + 1), sequence=sequence))
            else:
                sequence.waiting.append((work, position))
                self._start_if_possible(sequence)
            if len(self._outbox) >= _WINDOW:
                await self._flush()

    def _queue(self, request: _TrackRequest) -> None:
        request.sequence.in_flight += 1
        self._outbox.append(request)

    async def _flush(self) -> None:
        while self._outbox:
            request = self._outbox.popleft()
            await self._put(request, lambda identity, request=request: self._encoded(identity, request))  # type: ignore[misc]

    def _encoded(self, identity: str, request: _TrackRequest) -> bytes:
        sequence, source = request.sequence, request.source
        if request.start or source is None:
            flags = SequenceFlags(
                correlation_id=sequence.correlation_id,
                start=request.start,
                end=source is None,
                timeout=self._timeout if request.start else None,
            )
            head = row_head(REENTRY_STREAM, flags)
        else:
            head = sequence.head
        return row_request(head, identity, _INVALID_ROW if source is None else source.rows[request.positions.start])

    def _start_if_possible(self, sequence: _Sequence) -> None:
        """Start a sequence unless earlier requests of it are still in flight, which could overtake the start."""
        if sequence.correlation_id in self._ending:
            self._blocked[sequence.correlation_id] = sequence
        elif sequence.waiting and not sequence.starting and not sequence.in_flight:
            sequence.starting = True
            task = asyncio.ensure_future(self._start(sequence))
            self._starts.add(task)
            task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starts.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _start(self, sequence: _Sequence) -> None:
        """Start a sequence with its first measurement, then queue its replay and what waits for it."""
        async with self._start_slots:
            replay = self._state.replay_of(np.array([sequence.slot], np.int32), sequence.reason or self._reason)
            sequence.waiting.sort(key=lambda entry: (entry[0].number, entry[1]))
            source: Work | Replay = replay
            position = 0
            if not len(replay.slots):
                source, position = sequence.waiting[0]
            first = _TrackRequest(source, slice(position, position + 1), start=True, sequence=sequence)
            answer = await self._stream.ask(self._encoded("", first), timeout=self._timeout + _GRACE)
        if answer is None and not await self._stream.is_ready():
            raise ServerUnavailableError(f"no answer within {self._timeout:g} s", where=self._stream.address)
        sequence.starting = False
        if answer is None or isinstance(answer, RefusedError):
            self._give_up(sequence, answer)
            return
        self._take(first, answer)
        if source is not replay:
            sequence.waiting.pop(0)
        for number in range(1, len(replay.slots)):
            self._queue(_TrackRequest(replay, slice(number, number + 1), sequence=sequence))
        sequence.running = True
        self._release(sequence)

    def _give_up(self, sequence: _Sequence, error: RefusedError | None) -> None:
        """Refuse what waits for a sequence that the server does not start."""
        reason = (
            error.problem
            if error
            else f"the server has no free slot for a new track within {self._timeout:g} s; raise "
            f"max_candidate_sequences of {REENTRY_STREAM.name}, add a server, or use mode scan"
        )
        waiting, sequence.waiting = sequence.waiting, []
        for work, position in waiting:
            self._state.refuse(work, slice(position, position + 1), reason, "refused" if error else "no_slot")
        self._more.set()

    def _release(self, sequence: _Sequence) -> None:
        """Queue what waited for the start of a sequence."""
        waiting, sequence.waiting = sequence.waiting, []
        for work, position in waiting:
            self._queue(_TrackRequest(work, slice(position, position + 1), sequence=sequence))
        self._more.set()

    def _take(self, request: _TrackRequest, outputs: Outputs) -> None:
        if isinstance(request.source, Work):
            self._state.take(request.source, request.positions, outputs)
        elif isinstance(request.source, Replay):
            self._state.take_replay(request.source, request.positions, outputs)
        if not request.start:
            self._answered_one(request)

    def _refused(self, request: _TrackRequest, error: RefusedError) -> None:
        sequence = request.sequence
        if isinstance(request.source, Work):
            work, position = request.source, request.positions.start
            if isinstance(error, StartRequiredError):
                sequence.waiting.append((work, position))
                sequence.reason = "expired" if work.silence[position] > self._nearly_idle else "restarted"
            else:
                self._state.refuse(work, request.positions, error.problem, "refused")
        if isinstance(error, StartRequiredError):
            sequence.running = False
        self._answered_one(request)

    def _answered_one(self, request: _TrackRequest) -> None:
        sequence = request.sequence
        sequence.in_flight -= 1
        if request.source is None:
            self._ending.discard(sequence.correlation_id)
            sequence = self._blocked.pop(sequence.correlation_id, sequence)
        if not sequence.running:
            self._start_if_possible(sequence)

    def _dropped(self, slots: Slots) -> None:
        for slot in slots.tolist():
            sequence = self._sequences.pop(slot, None)
            if sequence is not None and sequence.running:
                sequence.running = False
                self._ending.add(sequence.correlation_id)
                self._queue(_TrackRequest(None, slice(0), sequence=sequence))
        self._more.set()

    async def _end(self) -> None:
        self._dropped(np.fromiter(self._sequences, np.int32))
        await self._flush()
        await self._answered()

    def _stop(self) -> None:
        for task in self._starts:
            task.cancel()
