"""Rows that every request needs: looked up once a second, and still known for a while when the database is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from cachetools import LRUCache, TTLCache

from gateway.database.engine import DatabaseUnavailableError

KNOWN_SECONDS: Final = 60.0
"""Time for which a row stays known while the database is away, s."""
FRESH_SECONDS: Final = 1.0
"""Time for which a row is not looked up again, s. A revoked key is refused after it, in every process."""
_PATIENCE: Final = 0.25
"""Longest wait for a new look at a row that is known, s."""
_LONGEST: Final = 3.0
"""Longest wait for a row that is not known, s."""
_ROWS: Final = 10_000
"""Rows that are held, and absent rows that are remembered."""
_MOST_QUERIES: Final = 4
"""Queries of unknown rows at once. Anybody can send an unknown key, which must not take all connections."""
_MOST_WAITING: Final = 1_000
"""Queries that may wait, including those in progress."""

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Row]):
    row: Row
    looked_up: float
    fresh_until: float


class Known(Generic[Row]):
    """Rows of the database by their id. Requests that need the same row at the same time share one query."""

    def __init__(self, look_up: Callable[[str], Awaitable[Row | None]]) -> None:
        """Make an empty cache.

        Args:
            look_up: query that returns the row of an id, or None if no row has it.
        """
        self._look_up = look_up
        self._entries: LRUCache[str, _Entry[Row]] = LRUCache(_ROWS)
        self._absent: TTLCache[str, None] = TTLCache(_ROWS, FRESH_SECONDS, lambda: time.monotonic())
        self._queries: dict[str, asyncio.Task[Row | None]] = {}
        self._slots = asyncio.Semaphore(_MOST_QUERIES)
        self._away_until = 0.0

    async def get(self, row_id: str) -> Row | None:
        """Return a row, or None if the database has none.

        Raises:
            DatabaseUnavailableError: the row is not known, and the database does not answer or too many such rows are
                looked up.
        """
        now = time.monotonic()
        entry = self._entries.get(row_id)
        if entry is not None and now < entry.fresh_until:
            return entry.row
        if row_id in self._absent:
            return None
        if entry is not None and now - entry.looked_up > KNOWN_SECONDS:
            entry = None
        if now >= self._away_until:
            try:
                async with asyncio.timeout(_LONGEST if entry is None else _PATIENCE):
                    return await asyncio.shield(self._query(row_id, is_known=entry is not None))
            except DatabaseUnavailableError:
                self._away_until = time.monotonic() + FRESH_SECONDS
            except TimeoutError:  # other rows may be quicker, so the database does not count as away
                if entry is not None and self._entries.get(row_id) is entry:
                    self._entries[row_id] = replace(entry, fresh_until=time.monotonic() + FRESH_SECONDS)
        if entry is None:
            raise DatabaseUnavailableError("the row is not known")
        return entry.row

    def forget(self, row_id: str) -> None:
        """Look a row up again at its next use, because it was changed."""
        self._entries.pop(row_id, None)
        self._absent.pop(row_id, None)

    def _query(self, row_id: str, *, is_known: bool) -> asyncio.Task[Row | None]:
        query = self._queries.get(row_id)
        if query is None:
            if not is_known and len(self._queries) >= _MOST_WAITING:
                raise TimeoutError
            query = self._queries[row_id] = asyncio.create_task(self._fetch(row_id, is_known=is_known))
            query.add_done_callback(_take_error)
        return query

    async def _fetch(self, row_id: str, *, is_known: bool) -> Row | None:
        try:
            async with nullcontext() if is_known else self._slots:
                asked = time.monotonic()
                row = await self._look_up(row_id)
        finally:
            del self._queries[row_id]
        if row is None:
            self._entries.pop(row_id, None)
            self._absent[row_id] = None
        else:
            self._entries[row_id] = _Entry(row, asked, asked + FRESH_SECONDS)
        return row


def _take_error(query: asyncio.Task[Row | None]) -> None:
    """Mark the error of a query as seen, because all requests that wanted it may have stopped waiting."""
    if not query.cancelled():
        query.exception()
