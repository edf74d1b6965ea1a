"""Usage: sums of each account and hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.database.engine import Database
from gateway.database.tables import Usage
from gateway.database.upsert import insert_into
from gateway.inference_log.rows import Entry

SUMS: Final = ("requests", "tracks", "steps", "cached", "degraded", "refused")
"""Columns of the sums."""
HOUR: Final = 3600
"""Seconds of an hour."""


async def add_usage(connection: AsyncConnection, entries: Iterable[Entry]) -> None:
    """Add requests to the sums of their accounts and hours, in the transaction that stores their rows."""
    sums: dict[tuple[str, int], Counter[str]] = {}
    for entry in entries:
        each = sums.setdefault((entry.account_id, int(entry.at // HOUR)), Counter())
        each["requests"] += entry.is_request
        each["refused"] += entry.refused
        for row in entry.rows:
            if not row.shadow:
                each["tracks"] += 1
                each["steps"] += row.steps
                each["cached"] += row.cached
                each["degraded"] += row.degraded
    await add_sums(connection, sums)


async def add_sums(connection: AsyncConnection, sums: Mapping[tuple[str, int], Mapping[str, int]]) -> None:
    """Add to the sums of accounts and hours in the present transaction.

    Args:
        connection: connection with the transaction.
        sums: what is added to the columns `SUMS`, by account and hour.
    """
    # All processes change the rows in the same order, so that no two wait for each other.
    for (account_id, hour), each in sorted(sums.items()):
        insert = insert_into(connection, Usage).values(
            account_id=account_id, hour=hour, **{name: each.get(name, 0) for name in SUMS}
        )
        await connection.execute(
            insert.on_conflict_do_update(
                index_elements=["account_id", "hour"],
                set_={name: getattr(Usage, name) + insert.excluded[name] for name in SUMS},
            )
        )


async def usage_of(database: Database, account_id: str, since: float, until: float) -> list[dict[str, int]]:
    """Return the sums of the hours that begin in [since, until), in their order.

    Args:
        database: database of the gateway.
        account_id: account.
        since: Unix time, s.
        until: Unix time, s.
    """
    query = (
        select(Usage.hour, *(getattr(Usage, name) for name in SUMS))
        .where(Usage.account_id == account_id, Usage.hour * HOUR >= since, Usage.hour * HOUR < until)
        .order_by(Usage.hour)
    )
    async with database.reading() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]
