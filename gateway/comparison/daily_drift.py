"""Drift of each day, computed from the inference log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, and_, select

from gateway import metrics
from gateway.background import repeating
from gateway.comparison.drift import BASELINE_TRACKS, QuantityDrift, drift_of
from gateway.database.engine import Database
from gateway.database.tables import DriftBaseline, LoggedTrack
from gateway.database.upsert import insert_into
from gateway.scoring.cache import SingleFlight
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

_AT_ONCE: Final = 2
"""Measurements at once; each takes a connection to the database for most of its time."""

_COLUMNS: Final = (
    *(LoggedTrack.id, LoggedTrack.at, LoggedTrack.track_id, LoggedTrack.steps, LoggedTrack.model_version),
    *(LoggedTrack.first_timestamp, LoggedTrack.last_timestamp, LoggedTrack.peak_altitude),
    *(LoggedTrack.largest_probability, LoggedTrack.quantities),
)

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
        self._flights: SingleFlight[tuple[Baseline, Sequence[Day]]] = SingleFlight()
        self._turns = asyncio.Semaphore(_AT_ONCE)

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
        return await self._flights.run((account_id, days, now), partial(self._of, account_id, days, now))

    async def _of(self, account_id: str | None, days: int, now: float | None) -> tuple[Baseline, Sequence[Day]]:
        today = (time.time() if now is None else now) // DAY_SECONDS * DAY_SECONDS
        counted = and_(LoggedTrack.shadow.is_(False), LoggedTrack.degraded.is_(False))
        if account_id is not None:
            counted = and_(counted, LoggedTrack.account_id == account_id)
        found = []
        async with self._turns:
            first = await self._first(account_id or "", counted)
            baseline = Baseline(tracks=len(first), until=max((row["at"] for row in first), default=None))
            for start in (today - day * DAY_SECONDS for day in range(days)):
                of_day = and_(counted, LoggedTrack.at >= start, LoggedTrack.at < start + DAY_SECONDS)
                rows = _latest(await self._rows(of_day, newest=True, limit=MOST_TRACKS))
                # A day is not compared with first tracks that are among its own.
                is_later = baseline.until is not None and start > baseline.until
                found.append(await asyncio.to_thread(self._day, start, rows, first if is_later else []))
        return baseline, found

    async def _first(self, account_id: str, counted: ColumnElement[bool]) -> Rows:
        """Return the first tracks, and store them as they come: the inference log forgets its rows after some time."""
        query = select(DriftBaseline.answers, DriftBaseline.last_id, DriftBaseline.rows)
        async with self._database.reading() as connection:
            stored = (await connection.execute(query.where(DriftBaseline.account_id == account_id))).first()
        rows: Rows = [] if stored is None else msgspec.msgpack.decode(stored.rows)
        answers = 0 if stored is None else stored.answers
        if answers < BASELINE_TRACKS:
            later = counted if stored is None else and_(counted, LoggedTrack.id > stored.last_id)
            new = await self._rows(later, newest=False, limit=BASELINE_TRACKS - answers)
            if new:
                rows = _latest([*rows, *new])
                values = {
                    "answers": answers + len(new),
                    "last_id": new[-1]["id"],
                    "rows": msgspec.msgpack.encode(rows),
                }
                async with self._database.writing() as connection:
                    insert = insert_into(connection, DriftBaseline).values(account_id=account_id, **values)
                    await connection.execute(insert.on_conflict_do_update(index_elements=["account_id"], set_=values))
        return rows

    async def _rows(self, condition: ColumnElement[bool], *, newest: bool, limit: int) -> Rows:
        """Return the newest or the oldest rows in the order of their ids. A connection is taken for each part."""
        order = LoggedTrack.id.desc() if newest else LoggedTrack.id
        following = condition
        rows: Rows = []
        while len(rows) < limit:
            size = min(_PART, limit - len(rows))
            query = select(*_COLUMNS).where(following).order_by(order).limit(size)
            async with self._database.reading() as connection:
                part = [dict(row) for row in (await connection.execute(query)).mappings()]
            rows += part
            if len(part) < size:
                break
            last = part[-1]["id"]
            following = and_(condition, LoggedTrack.id < last if newest else LoggedTrack.id > last)
        return sorted(rows, key=lambda row: row["id"])

    def _day(self, start: float, rows: Rows, first: Rows) -> Day:
        versions = Counter(row["model_version"] for row in rows if row["model_version"] is not None)
        version = versions.most_common(1)[0][0] if versions else None
        reference = None if version is None else self._references.of(version)
        return Day(start=start, tracks=len(rows), model_version=version, quantities=drift_of(rows, first, reference))

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Update the metric of today's drift over all accounts regularly during the block."""
        return repeating(self._update_metric, seconds=WATCH_SECONDS, failure="drift was not measured")

    async def _update_metric(self) -> None:
        _, (today,) = await self.of(None, 1)
        for each in today.quantities:
            if each.stability_index is not None:
                metrics.DRIFT_PSI.labels(each.quantity).set(each.stability_index)


def _latest(rows: Rows) -> Rows:
    """Return the latest row of each track, from rows in the order of their ids."""
    return list({row["track_id"]: row for row in rows}.values())
