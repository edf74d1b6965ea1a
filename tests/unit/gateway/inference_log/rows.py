"""Rows for the tests of the inference log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from gateway.database.engine import Database


def row_of(number: int, **given: Any) -> dict[str, Any]:
    """A row as the scoring route logs it."""
    row = {
        "id": f"trk_{number:08d}",
        "account_id": "acct_a",
        "key_id": "key",
        "request_id": "req",
        "at": time.time(),
        "track_id": number,
        "steps": 10,
        "first_timestamp": 1.0,
        "last_timestamp": 10.0,
        "peak_altitude": 1e5,
        "largest_probability": 0.5,
        "model": "reentry",
        "model_version": 3,
        "seconds": 0.01,
        "quantities": {"apex": 1e5},
    }
    return row | given


async def read(database: Database, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    async with database.reading() as connection:
        return [tuple(row) for row in (await connection.execute(text(query))).all()]


async def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    """Poll a condition until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
