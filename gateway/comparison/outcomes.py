"""True onsets that clients send after the flights."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.engine import Database
from gateway.database.pages import read_page
from gateway.database.tables import LoggedTrack, Outcome
from gateway.database.upsert import insert_into
from gateway.ids import new_id

_PART: Final = 500
"""Rows in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Result of `Outcomes.store`."""

    created: int
    changed: int
    unchanged: int


class Outcomes:
    """The true onsets in the database: at most one for each track of an account."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tracks_of(self, account_id: str, answer_ids: Sequence[str]) -> dict[str, int]:
        """Return the track of each answer of an account in the inference log; unknown answers are left out."""
        found: dict[str, int] = {}
        async with self._database.reading() as connection:
            for first in range(0, len(answer_ids), _PART):
                query = select(LoggedTrack.id, LoggedTrack.track_id).where(
                    LoggedTrack.account_id == account_id, LoggedTrack.id.in_(answer_ids[first : first + _PART])
                )
                found |= {row.id: row.track_id for row in await connection.execute(query)}
        return found

    async def store(self, account_id: str, onsets: Mapping[int, float | None]) -> Stored:
        """Store the true onset of each track, all or none. The latest value of a track counts.

        Args:
            account_id: account that sends them.
            onsets: Unix time of the onset in s by track id; None for a flight without reentry.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        created = changed = 0
        ordered = sorted(onsets)  # two requests lock rows in the same order, and cannot block each other
        async with self._database.writing() as connection:
            for first in range(0, len(ordered), _PART):
                part = ordered[first : first + _PART]
                before = await _stored(connection, account_id, part)
                new = [track_id for track_id in part if track_id not in before]
                other = [track_id for track_id in part if track_id in before and before[track_id] != onsets[track_id]]
                created, changed = created + len(new), changed + len(other)
                if new or other:
                    rows = [_row(account_id, track_id, onsets[track_id]) for track_id in (*new, *other)]
                    insert = insert_into(connection, Outcome)
                    changes = {name: insert.excluded[name] for name in ("onset_timestamp", "received_at")}
                    upsert = insert.on_conflict_do_update(
                        index_elements=[Outcome.account_id, Outcome.track_id], set_=changes
                    )
                    await connection.execute(upsert, rows)
        return Stored(created=created, changed=changed, unchanged=len(ordered) - created - changed)

    async def list(
        self, account_id: str, *, limit: int, cursor: str | None = None
    ) -> tuple[Sequence[Row[Any]], str | None]:
        """Return a page of the outcomes of an account in the order in which they were first sent, and the next cursor.

        Raises:
            Problem: the cursor is invalid.
        """
        query = select(*Outcome.__table__.columns).where(Outcome.account_id == account_id)
        async with self._database.reading() as connection:
            return await read_page(connection, query, [Outcome.__table__.c.id], limit=limit, cursor=cursor)


async def _stored(connection: AsyncConnection, account_id: str, track_ids: Sequence[int]) -> dict[int, float | None]:
    query = select(Outcome.track_id, Outcome.onset_timestamp).where(
        Outcome.account_id == account_id, Outcome.track_id.in_(track_ids)
    )
    return {row.track_id: row.onset_timestamp for row in await connection.execute(query)}


def _row(account_id: str, track_id: int, onset: float | None) -> dict[str, Any]:
    return {
        "id": new_id("out"),
        "account_id": account_id,
        "track_id": track_id,
        "onset_timestamp": onset,
        "received_at": time.time(),
    }
