"""Live events of the accounts: alerts and refinements, which are kept, and positions, which are not.

Kept events are numbered in the order of their commits, so that a reader who has one of them misses no later one: only
one transaction at a time adds events. Readers take them from the table; the bus only wakes the readers. Positions go to
the readers over the bus and are gone afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import numpy as np
import structlog
from sqlalchemy import func, select, text

from gateway import metrics
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Event
from gateway.database.upsert import insert_into
from gateway.events.bus import Bus
from gateway.events.sse import Mailbox, encode_event

TRACK_POINTS: Final = 300
"""Largest number of points of a scored track in its event."""
_BATCH: Final = 500
"""Events that a reader takes from the table at once."""
_BETWEEN_LOOKS: Final = 1.0
"""Longest time until a reader sees an event of another process without the bus, s."""
_LOCK: Final = 7_146_316_302
"""Number of the advisory lock of PostgreSQL under which events are added. SQLite has one writer at a time anyway."""
_WAKE: Final = b""
"""Message to the readers of an account that the table has new events."""

_log = structlog.get_logger(__name__)


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to keep."""

    kind: str
    identity: str
    """What makes the event unique in its account."""
    content: dict[str, Any]


class Events:
    """Live events of one process."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._newest = 0
        self._looked = 0.0
        self._looking = asyncio.Lock()

    async def keep(self, account_id: str, events: Sequence[NewEvent]) -> int:
        """Store events, and return the number of those that were not stored before.

        Raises:
            DatabaseUnavailableError: the database does not answer. The events may be sent again.
        """
        if not events:
            return 0
        now = time.time()
        values = [
            {"account_id": account_id, "kind": each.kind, "identity": each.identity, "content": each.content, "at": now}
            for each in events
        ]
        async with self._database.writing() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            insert = insert_into(connection, Event).on_conflict_do_nothing().returning(Event.kind)
            new = (await connection.execute(insert, values)).scalars().all()
        for kind in new:
            metrics.EVENTS.labels(kind).inc()
        if new:
            self._bus.publish(_channel(account_id), _WAKE)
        return len(new)

    def has_readers(self, account_id: str) -> bool:
        """Whether anybody reads the events of an account."""
        return self._bus.has_listeners(_channel(account_id))

    def send(self, account_id: str, kind: str, content: Any) -> None:
        """Send an event, which is not kept, to the present readers of an account. It never waits."""
        metrics.EVENTS.labels(kind).inc()
        if self.has_readers(account_id):
            self._bus.publish(_channel(account_id), encode_event(kind, content))

    def publish_track(
        self,
        account_id: str,
        *,
        track_id: int,
        columns: Mapping[str, Any],
        onset_timestamp: float | None,
        model_version: int | None,
        degraded: bool,
    ) -> None:
        """Send a scored track to the present readers, with at most `TRACK_POINTS` of its points.

        Args:
            account_id: account that sent the track.
            track_id: number of the track.
            columns: arrays (T,) by the names timestamp, latitude, longitude, altitude, probability and phase.
            onset_timestamp: Unix time of the onset, s; None without one.
            model_version: version that answered; None for the altitude-fraction rule.
            degraded: whether that rule answered.
        """
        if not self.has_readers(account_id):
            return
        count = len(columns["timestamp"])
        points = np.unique(np.linspace(0, count - 1, min(count, TRACK_POINTS)).astype(np.int64))
        shown = {name: np.asarray(columns[name])[points].tolist() for name in _TRACK_COLUMNS}
        content = {"feed": "score", "track_id": track_id, **shown, "onset_timestamp": onset_timestamp}
        self.send(account_id, "track", content | {"model_version": model_version, "degraded": degraded})

    async def begin(self, after: int | None) -> int:
        """Return the number after which a new reader begins.

        Args:
            after: number of the newest kept event that the reader has; None to begin with the next one.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        self._looked = 0.0
        newest = await self._look()
        if after is None:
            return newest
        # A number of another database is meaningless here: the reader has none of the events in this one.
        return after if after <= newest else 0

    async def read(
        self, account_id: str, after: int, check: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the encoded events of an account, those that are kept from a number on.

        Args:
            account_id: account.
            after: number of the newest kept event that the reader has.
            check: asked about every second whether the reader may continue.
        """
        mailbox = Mailbox()
        is_behind = True
        newest = after

        def take(message: bytes) -> None:
            nonlocal is_behind
            if message == _WAKE:
                is_behind = True
                mailbox.filled.set()
            else:
                mailbox.put(message)

        stop = self._bus.listen(_channel(account_id), take)
        try:
            # A reader who loses the connection before the first event comes back with this number.
            yield b"id: %d\n\n" % after
            looked = time.monotonic()
            while True:
                while is_behind:
                    is_behind = False
                    try:
                        rows = await self._after(account_id, after)
                    except DatabaseUnavailableError:
                        is_behind = True
                        break
                    if rows:
                        is_behind = len(rows) == _BATCH or is_behind
                        after = rows[-1][0]
                        yield b"".join(encode_event(kind, content, number) for number, kind, content in rows)
                if waiting := mailbox.take():
                    yield waiting
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BETWEEN_LOOKS):
                        await mailbox.filled.wait()
                if time.monotonic() - looked >= _BETWEEN_LOOKS:
                    looked = time.monotonic()
                    if check is not None and not await check():
                        return
                    with suppress(DatabaseUnavailableError):
                        is_behind = await self._look() > newest or is_behind
                    newest = self._newest
        finally:
            stop()

    async def _look(self) -> int:
        """Return the number of the newest event of all accounts, at most a short time old."""
        async with self._looking:  # one query for all readers
            if time.monotonic() - self._looked > _BETWEEN_LOOKS / 2:
                async with self._database.reading() as connection:
                    self._newest = (await connection.scalar(select(func.max(Event.number)))) or 0
                self._looked = time.monotonic()
        return self._newest

    async def _after(self, account_id: str, number: int) -> list[tuple[int, str, dict[str, Any]]]:
        query = (
            select(Event.number, Event.kind, Event.content)
            .where(Event.account_id == account_id, Event.number > number)
            .order_by(Event.number)
            .limit(_BATCH)
        )
        async with self._database.reading() as connection:
            return [(row.number, row.kind, row.content) for row in await connection.execute(query)]


_TRACK_COLUMNS: Final = ("timestamp", "latitude", "longitude", "altitude", "probability", "phase")


def _channel(account_id: str) -> str:
    return f"events:{account_id}"
