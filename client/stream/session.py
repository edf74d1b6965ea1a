"""One connection of a feed: writes requests, reads answers and watches the time, until the feed ends or it breaks."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from client.connection import RefusedError, ServerUnavailableError
from client.stream.sequence_stream import Outputs, SequenceStream
from client.stream.state import FeedState, Work
from client.stream.statistics import ReplayReason
from client.stream.track_table import Slots

NEARLY: Final = 0.9
"""Fraction of the idle time from which a silence explains that the server does not know a track any more."""
_BETWEEN_CHECKS: Final = 0.5
"""Time between two looks at silent tracks and overdue answers, s."""


Request = TypeVar("Request")


class SequenceLostError(Exception):
    """The server lost the state of the feed, so that its tracks must be replayed."""

    def __init__(self, reason: ReplayReason, message: str) -> None:
        super().__init__(message)
        self.reason: ReplayReason = reason


class Session(ABC, Generic[Request]):
    """What both modes share."""

    def __init__(
        self,
        state: FeedState,
        stream: SequenceStream,
        *,
        window: int,
        timeout: float,
        idle: float,
        reason: ReplayReason,
    ) -> None:
        """Prepare a session.

        Args:
            state: state of the feed.
            stream: the connection.
            window: largest number of requests that wait for their answers.
            timeout: longest wait for an answer, s.
            idle: silence after which the server drops a track, s.
            reason: why tracks that this server does not know yet are replayed.
        """
        self._state = state
        self._stream = stream
        self._timeout = timeout
        self._idle = idle
        self._reason: ReplayReason = reason
        self._window = asyncio.Semaphore(window)
        self._in_flight: dict[str, tuple[Request, float]] = {}
        self._count = 0
        self._new: list[Work] = list(state.works)
        self._more = asyncio.Event()
        self._more.set()
        self._closing = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        state.tracks.started[:] = False
        state.tracks.last_seen[state.tracks.live_slots] = time.monotonic()  # an outage is no silence of the tracks

    def add(self, work: Work) -> None:
        """Send new work."""
        self._new.append(work)
        self._more.set()

    def close(self) -> None:
        """End the sequences once all work is answered, and then the session."""
        self._closing = True
        self._more.set()

    async def run(self) -> None:
        """Send work until the session is closed.

        Raises:
            ServerUnavailableError: the connection broke.
            SequenceLostError: the server lost the state of the feed.
            ClientError: the server has no place for the feed.
        """
        tasks: list[asyncio.Future[None]] = [
            *(asyncio.ensure_future(each) for each in (self._write(), self._read(), self._watch())),
            self._failure,
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._stop()

    @abstractmethod
    async def _send(self, works: list[Work]) -> None:
        """Send the unanswered measurements of calls, in their order."""

    @abstractmethod
    def _take(self, request: Request, outputs: Outputs) -> None:
        """Take the answer to a request."""

    @abstractmethod
    def _refused(self, request: Request, error: RefusedError) -> None:
        """React to a refused request."""

    async def _check_slot(self, request: Request) -> None:  # only one mode starts on the stream
        """Check that a request without an answer does not wait for a free slot of the server."""

    @abstractmethod
    def _dropped(self, slots: Slots) -> None:
        """Release what the session or the server keeps of dropped tracks."""

    @abstractmethod
    async def _end(self) -> None:
        """End the sequences."""

    def _stop(self) -> None:  # only one mode has something to stop
        """Stop what the session started."""

    async def _put(self, request: Request, message: Callable[[str], bytes]) -> None:
        """Write a request to the stream. `message` encodes it, given its id."""
        await self._window.acquire()
        identity = str(self._count)
        self._count += 1
        self._in_flight[identity] = request, time.monotonic()
        self._stream.write(message(identity))

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            await self._flush()
            while self._new:
                works, self._new = self._new, []
                await self._send(works)
                await self._flush()
            if self._closing and not self._state.works:
                await self._end()
                return

    async def _flush(self) -> None:  # only one mode has an outbox
        """Write what earlier answers made ready."""

    async def _read(self) -> None:
        while True:
            identity, answer = await self._stream.read()
            entry = self._in_flight.pop(identity, None)
            if entry is None:
                raise ServerUnavailableError("an answer to no request", where=self._stream.address)
            self._window.release()
            if isinstance(answer, RefusedError):
                self._refused(entry[0], answer)
            else:
                self._take(entry[0], answer)
            if self._closing:
                self._more.set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_BETWEEN_CHECKS)
            oldest = next(iter(self._in_flight.values()), None)
            if oldest is not None and time.monotonic() - oldest[1] > self._timeout:
                await self._check_slot(oldest[0])
                raise ServerUnavailableError(f"no answer within {self._timeout:g} s", where=self._stream.address)
            dropped = self._state.drop_silent(self._idle)
            if len(dropped):
                self._dropped(dropped)

    async def _answered(self) -> None:
        """Wait until no request is in flight."""
        while self._in_flight:
            await asyncio.sleep(0.005)
