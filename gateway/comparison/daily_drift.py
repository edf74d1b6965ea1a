"""Drift of each day, computed from the inference log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.comparison.drift import BASELINE_TRACKS, QuantityDrift, drift_of
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import LoggedTrack
from reentry.drift import Reference
from reentry.references import ByVersion
from reentry.schema import REENTRY_LSTM

DAY_SECONDS: Final = 86_400
"""Length of a day, s. Days begin at midnight UTC."""

MOST_TRACKS: Final = 5_000
"""Largest number of answers of a day that are compared, the newest ones; enough for any distribution."""

WATCH_SECONDS: Final = 600.0
"""Time between two updates of the metric of drift."""

_PART: Final = 500
"""Rows that are read at a time, so that other requests are answered in between."""

_COLUMNS: Final = (
    *(LoggedTrack.id, LoggedTrack.at, LoggedTrack.track_id, LoggedTrack.steps, LoggedTrack.model_version),
    *(LoggedTrack.first_timestamp, LoggedTrack.last_timestamp, LoggedTrack.peak_altitude),
    *(LoggedTrack.largest_probability, LoggedTrack.quantities),
)
_LOG = logging.getLogger(__name__)

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Drift of one day."""

    start: float
    """Unix time of its midnight, s."""
    tracks: int
    """Different tracks that were scored; the newest ones if there were very many."""
    model_version: int | None
    """Version that answered most of them."""
    quantities: list[QuantityDrift]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The first tracks, which later days are compared with."""

    tracks: int
    until: float | None
    """Time of the last one; None without tracks."""


class DailyDrift:
    """Computes the drift of days from the inference log."""

    def __init__(self, database: Database, model_repository: Path) -> None:
        """Store where the inference log and the references are."""
        self._database = database
        self._references: ByVersion[Reference] = ByVersion(model_repository / REENTRY_LSTM.name, lambda found: found)

    async def of(
        self, account_id: str | None, days: int, *, now: float | None = None
    ) -> tuple[Baseline, Sequence[Day]]:
        """Return the drift of the last days, the newest first.

        Args:
            account_id: account whose tracks are compared; None for all accounts.
            days: number of days, today included.
            now: the time; that of the clock by default.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        today = (time.time() if now is None else now) // DAY_SECONDS * DAY_SECONDS
        counted = and_(LoggedTrack.shadow.is_(False), LoggedTrack.degraded.is_(False))
        if account_id is not None:
            counted = and_(counted, LoggedTrack.account_id == account_id)
        found = []
        async with self._database.reading() as connection:
            first = await _rows(connection, counted, newest=False, limit=BASELINE_TRACKS)
            baseline = Baseline(tracks=len(first), until=max((row["at"] for row in first), default=None))
            for start in (today - day * DAY_SECONDS for day in range(days)):
                of_day = and_(counted, LoggedTrack.at >= start, LoggedTrack.at < start + DAY_SECONDS)
                rows = await _rows(connection, of_day, newest=True, limit=MOST_TRACKS)
                # A day is not compared with first tracks that are among its own.
                is_later = baseline.until is not None and start > baseline.until
                found.append(await asyncio.to_thread(self._day, start, rows, first if is_later else []))
        return baseline, found

    def _day(self, start: float, rows: Rows, first: Rows) -> Day:
        versions = Counter(row["model_version"] for row in rows if row["model_version"] is not None)
        version = versions.most_common(1)[0][0] if versions else None
        reference = None if version is None else self._references.of(version)
        return Day(start=start, tracks=len(rows), model_version=version, quantities=drift_of(rows, first, reference))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Update the metric of today's drift over all accounts regularly during the block."""
        task = asyncio.create_task(self._watch(), name="drift")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            try:
                _, (today,) = await self.of(None, 1)
                for each in today.quantities:
                    if each.stability_index is not None:
                        metrics.DRIFT_PSI.labels(each.quantity).set(each.stability_index)
            except DatabaseUnavailableError:
                _LOG.debug("drift was not measured: the database does not answer")
            except Exception:
                _LOG.exception("drift was not measured")
            await asyncio.sleep(WATCH_SECONDS)


async def _rows(connection: AsyncConnection, condition: ColumnElement[bool], *, newest: bool, limit: int) -> Rows:
    """Return the latest row of each track among the newest or the oldest rows."""
    order = LoggedTrack.id.desc() if newest else LoggedTrack.id
    following = condition
    rows: Rows = []
    while len(rows) < limit:
        size = min(_PART, limit - len(rows))
        query = select(*_COLUMNS).where(following).order_by(order).limit(size)
        part = [dict(row) for row in (await connection.execute(query)).mappings()]
        rows += part
        if len(part) < size:
            break
        last = part[-1]["id"]
        following = and_(condition, LoggedTrack.id < last if newest else LoggedTrack.id > last)
    rows.sort(key=lambda row: row["id"])
    return list({row["track_id"]: row for row in rows}.values())
