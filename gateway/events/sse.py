"""Server-sent events: the form of an event, the bounded mailbox of a reader, and the response that sends them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.problems import Problem

KEEP_ALIVE_SECONDS: Final = 15.0
"""Longest silence of a stream, s. Proxies close a connection that is silent for longer, often after 60 s."""
MEDIA_TYPE: Final = "text/event-stream"

MOST_STREAMS: Final = 20
"""Streams that one key may read from one process at the same time."""

_RETRY: Final = b"retry: 1000\n\n"
"""Makes the client connect again 1 s after a stream has ended."""
_KEEP_ALIVE: Final = b": keep-alive\n\n"
_LARGEST_MAILBOX: Final = 4 * 2**20
"""Bytes of the events that wait for one slow reader."""
_END_SECONDS: Final = 1.0


def encode_event(kind: str, content: Any, number: int | None = None) -> bytes:
    """Return an event as bytes.

    Args:
        kind: name of the event.
        content: what is sent as JSON.
        number: id of the event, which a client sends as Last-Event-ID when it connects again; None for an event that
            is not kept.
    """
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(content) + b"\n\n"


class Mailbox:
    """Encoded events that wait for one reader. A reader that is too slow loses the oldest, and gets their number."""

    def __init__(self, largest: int = _LARGEST_MAILBOX) -> None:
        self._largest = largest
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._lost = 0
        self.filled = asyncio.Event()
        """Set while something waits for the reader."""

    def put(self, event: bytes) -> None:
        """Add an encoded event."""
        self._events.append(event)
        self._bytes += len(event)
        while self._bytes > self._largest and len(self._events) > 1:
            self._bytes -= len(self._events.popleft())
            self._lost += 1
            metrics.EVENTS_LOST.inc()
        self.filled.set()

    def take(self) -> bytes:
        """Return everything that waits; the event `lost` comes first if events were dropped."""
        events = b"".join(self._events)
        if self._lost:
            events = encode_event("lost", {"count": self._lost}) + events
        self._events.clear()
        self._bytes = self._lost = 0
        self.filled.clear()
        return events


class Readers:
    """Streams that this process sends, by the key that opened them."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def admit(self, key_id: str) -> Iterator[None]:
        """Count a stream during the block.

        Raises:
            Problem: the key has too many streams.
        """
        if self._open[key_id] >= MOST_STREAMS:
            raise Problem(
                "rate-limited",
                "the key has too many open streams of events",
                expected=f"at most {MOST_STREAMS} streams of a key",
                fix="close a stream, or let one stream serve several readers",
            )
        self._open[key_id] += 1
        try:
            yield
        finally:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]


class EventStream(Response):
    """Response that sends encoded events as they come.

    It ends when the iterator ends, when the client closes the connection, or when the process stops. While the client
    reads slowly the iterator is not advanced, so a source that must not wait puts its events into a `Mailbox`.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: AsyncIterator[bytes],
        stopping: asyncio.Event,
        *,
        admission: AbstractContextManager[None] | None = None,
        keep_alive: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        """Prepare the response.

        Args:
            events: one or several encoded events at a time, see `encode_event`. The iterator is closed at the end.
            stopping: set when the process stops.
            admission: entered while the stream is open, see `Readers.admit`.
            keep_alive: silence after which a comment is sent, s.
        """
        # No proxy may store, compress or hold back the events.
        super().__init__(headers={"cache-control": "no-store, no-transform", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._stopping = stopping
        self._admission = admission or nullcontext()
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # the interface of ASGI
        """Send events until one of the three ends."""
        with self._admission:
            await self._stream(receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        metrics.EVENT_READERS.inc()
        tasks = [
            asyncio.ensure_future(each)
            for each in (self._send_all(send), _disconnected(receive), self._stopping.wait())
        ]
        sending, disconnected, _ = tasks
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            metrics.EVENT_READERS.dec()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if (close := getattr(self._events, "aclose", None)) is not None:
                await close()
        if not disconnected.done() or disconnected.cancelled():
            # A client that reads nothing must not hold up the shutdown.
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        await _send_part(send, _RETRY)
        iterator = aiter(self._events)
        upcoming: asyncio.Future[bytes] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(iterator))
                done, _ = await asyncio.wait((upcoming,), timeout=self._keep_alive)
                if not done:
                    await _send_part(send, _KEEP_ALIVE)
                    continue
                try:
                    events = upcoming.result()
                except StopAsyncIteration:
                    return
                upcoming = None
                if events:
                    await _send_part(send, events)
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
