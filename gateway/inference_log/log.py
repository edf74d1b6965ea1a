"""Inference log: one row for each answered track, and the sums of usage.

`record` writes to a spool on disk before the answer is sent. A background task moves the parts of the spool into the
database, each in one transaction with its number, so that it is stored exactly once: also after a lost connection
during the commit, and after the end of the process at any moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import astuple
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway import metrics
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import SpoolPart
from gateway.database.upsert import insert_into
from gateway.inference_log.retention import keep_days
from gateway.inference_log.rows import Entry, LogRow, decode_entry, encode_entry
from gateway.inference_log.spool import Part, Spool, abandoned
from gateway.inference_log.usage import add_usage
from gateway.settings import GatewaySettings

_BETWEEN_BATCHES: Final = 1.0
"""Time for which rows wait for others before they are stored together, s. Until then they are on disk."""
_ROWS_IN_BATCH: Final = 500
"""Number of rows after which a batch is stored at once."""
_BETWEEN_TRIES: Final = 0.5
"""Time between two tries while the database is away, s."""
_BETWEEN_ADOPTIONS: Final = 10.0
_END_SECONDS: Final = 5.0
"""Longest time for the last batch at shutdown, s. What is not stored then waits on disk for the next start."""

_COLUMNS: Final = ", ".join(LogRow.__struct_fields__)
_INSERT_ON_POSTGRESQL: Final = text(
    f"INSERT INTO inference_log ({_COLUMNS}) SELECT {_COLUMNS} "
    "FROM json_populate_recordset(CAST(NULL AS inference_log), CAST(:rows AS JSON)) ON CONFLICT (id) DO NOTHING"
)
"""One parameter for all rows, which needs far less CPU time than one set of parameters for each row."""
_INSERT_ON_SQLITE: Final = (
    f"INSERT INTO inference_log ({_COLUMNS}) VALUES ({', '.join('?' * len(LogRow.__struct_fields__))}) "
    "ON CONFLICT (id) DO NOTHING"
)
"""Rows are passed to the driver as they are: SQLAlchemy's conversions would take most of the CPU time."""
_UNUSABLE: Final = (DataError, IntegrityError, msgspec.MsgspecError, TypeError, ValueError, OverflowError)
"""Errors of rows that the database refuses, and would refuse again."""

_log = structlog.get_logger(__name__)


class InferenceLog:
    """The log of one process."""

    def __init__(self, database: Database, settings: GatewaySettings) -> None:
        self._database = database
        self._days = settings.log_days
        self._place = settings.data / "spool"
        self._largest = settings.spool_bytes
        self._waiting = asyncio.Event()
        self._full = asyncio.Event()
        self._rows = 0
        self._is_away = False
        self._spool: Spool | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to log, and store what ended processes left on disk."""
        self._spool = Spool.create(self._place, self._largest)
        metrics.SPOOL_BYTES.set_function(partial(getattr, self._spool, "size"))
        parts = self._run(self._spool), self._adopt(), keep_days(self._database, self._days)
        self._tasks = [asyncio.ensure_future(part) for part in parts]

    async def close(self) -> None:
        """Store what is left within a bounded time. The rest stays on disk."""
        if self._spool is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=_END_SECONDS)
        if self._tasks[0].done():
            self._spool.end_part()
            last = asyncio.ensure_future(self._store_all(self._spool))
            await asyncio.wait({last}, timeout=_END_SECONDS)
            last.cancel()
        self._spool.close()
        self._spool = None

    def record(self, rows: Sequence[Mapping[str, Any]], *, account_id: str = "", refused: int = 0) -> None:
        """Log one answered request, before its answer is sent. It never waits and never raises.

        Args:
            rows: one row for each answered track, with the fields of `LogRow`. A field with a default may be left out.
            account_id: account of the request; that of the first row by default.
            refused: number of tracks that were refused.
        """
        try:
            account_id = account_id or rows[0]["account_id"]
            is_kept = self._spool is not None and self._spool.append(
                encode_entry(account_id, time.time(), refused, rows)
            )
        except Exception:
            _log.exception("rows cannot be logged")
            is_kept = False
        if not is_kept:
            metrics.SPOOL_DROPPED.inc(len(rows))
            return
        self._rows += len(rows)
        self._waiting.set()
        if self._rows >= _ROWS_IN_BATCH:
            self._full.set()

    async def _run(self, spool: Spool) -> None:
        while True:
            await self._waiting.wait()
            if self._is_away:
                await asyncio.sleep(_BETWEEN_TRIES)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BETWEEN_BATCHES):
                        await self._full.wait()
            self._rows = 0
            self._waiting.clear()
            self._full.clear()
            try:
                await self._store_all(spool)
            except Exception:  # such as a table that is not migrated yet
                _log.exception("the inference log cannot be stored now")
                self._is_away = True
            if spool.size:
                self._waiting.set()

    async def _store_all(self, spool: Spool) -> bool:
        """Store all parts; return False if the database is away."""
        if not spool.parts:
            spool.end_part()
        while spool.parts:
            part = spool.parts[0]
            try:
                try:
                    await self._store(spool.name, part)
                except _UNUSABLE:
                    await self._store_usable(spool, part)
            except DatabaseUnavailableError as error:
                if not self._is_away:
                    _log.warning("the database is away; the inference log waits on disk", error=str(error))
                self._is_away = True
                metrics.DATABASE_UP.set(0)
                await asyncio.to_thread(spool.sync)
                return False
            spool.remove(part)
            self._is_away = False
            metrics.DATABASE_UP.set(1)
        return True

    async def _store(self, name: str, part: Part) -> None:
        entries = [decode_entry(body) for body in part.records()]
        async with self._database.writing() as connection:
            if await _is_stored(connection, name, part.number):
                return
            await _insert(connection, entries)
        metrics.LOG_ROWS.inc(_rows(entries))

    async def _store_usable(self, spool: Spool, part: Part) -> None:
        """Store a part entry by entry, and keep those on disk that cannot be stored, so that no other one is lost."""
        stored: list[Entry] = []
        refused: list[bytes] = []
        lost = 0
        async with self._database.writing() as connection:
            if await _is_stored(connection, spool.name, part.number):
                return
            for body in part.records():
                entry = None
                try:
                    entry = decode_entry(body)
                    async with connection.begin_nested():
                        await _insert(connection, [entry])
                    stored.append(entry)
                except _UNUSABLE:
                    _log.exception("an entry of the inference log cannot be stored", part=str(part.path))
                    refused.append(body)
                    lost += 1 if entry is None else len(entry.rows)
            if refused:  # kept before the commit, after which the part would not be read again
                spool.set_aside(part, refused)
        metrics.LOG_ROWS.inc(_rows(stored))
        metrics.SPOOL_DROPPED.inc(lost)

    async def _adopt(self) -> None:
        while True:
            for spool in abandoned(self._place):
                try:
                    while not await self._store_all(spool):
                        await asyncio.sleep(_BETWEEN_TRIES)
                finally:
                    spool.close()
            await asyncio.sleep(_BETWEEN_ADOPTIONS)


async def _is_stored(connection: AsyncConnection, name: str, number: int) -> bool:
    """Note in this transaction that a part is stored; return whether it was before."""
    insert = insert_into(connection, SpoolPart).values(id=name, number=number, stored_at=time.time())
    noted = await connection.execute(
        insert.on_conflict_do_update(
            index_elements=["id"],
            set_={"number": insert.excluded.number, "stored_at": insert.excluded.stored_at},
            where=SpoolPart.number < insert.excluded.number,
        ).returning(SpoolPart.id)
    )
    return noted.first() is None


async def insert_rows(connection: AsyncConnection, rows: list[LogRow]) -> None:
    """Store rows. A row whose id is stored already is left out."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        await connection.execute(_INSERT_ON_POSTGRESQL, {"rows": msgspec.json.encode(rows).decode()})
    else:
        values = [(*astuple(row)[:-1], msgspec.json.encode(row.quantities).decode()) for row in rows]
        await connection.exec_driver_sql(_INSERT_ON_SQLITE, values)


async def _insert(connection: AsyncConnection, entries: list[Entry]) -> None:
    """Store the rows of entries, and add them to the sums of usage."""
    await insert_rows(connection, [row for entry in entries for row in entry.rows])
    await add_usage(connection, entries)


def _rows(entries: list[Entry]) -> int:
    return sum(len(entry.rows) for entry in entries)
