"""Retention: deletes old rows of the inference log and old live events."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

import structlog
from sqlalchemy import delete, select

from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Event, LoggedTrack, SpoolPart

_BATCH: Final = 1_000
"""Rows of one transaction, so that no writer waits long."""
_BETWEEN_RUNS: Final = 3600.0
_BETWEEN_BATCHES: Final = 0.05
_DAY: Final = 86_400.0

_log = structlog.get_logger(__name__)


async def keep_days(database: Database, days: int) -> None:
    """Delete what is older than some days, now and every hour."""
    while True:
        try:
            deleted = await delete_before(database, time.time() - days * _DAY)
            if deleted:
                _log.info("old rows deleted", rows=deleted)
        except DatabaseUnavailableError:
            pass  # the next run deletes them
        except Exception:
            _log.exception("old rows cannot be deleted now")
        await asyncio.sleep(_BETWEEN_RUNS * random.uniform(0.9, 1.1))  # processes take turns


async def delete_before(database: Database, oldest: float) -> int:
    """Delete all rows from before a time, in small transactions, and return their number."""
    return sum(
        [
            await _delete(database, LoggedTrack.id, LoggedTrack.at < oldest),
            await _delete(database, Event.number, Event.at < oldest),
            await _delete(database, SpoolPart.id, SpoolPart.stored_at < oldest),
        ]
    )


async def _delete(database: Database, key: Any, condition: Any) -> int:
    total = 0
    while True:
        async with database.writing() as connection:
            batch = select(key).where(condition).limit(_BATCH)
            count = (await connection.execute(delete(key.class_).where(key.in_(batch)))).rowcount
        total += count
        if count < _BATCH:
            return total
        await asyncio.sleep(_BETWEEN_BATCHES)
