"""Connections to the database: SQLite in write-ahead mode, or PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway import metrics
from gateway.settings import GatewaySettings

_CONNECT_SECONDS: Final = 3
_LOST_PEER: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""A server that vanished with its machine or network is noticed after 25 s; the system would wait 15 minutes."""
_BUSY_MILLISECONDS: Final = 10_000
"""Longest wait of SQLite for another writer."""
_LONGEST_SECONDS: Final = 15.0
"""Longest time of one block of `reading` or `writing`, s. A server that hangs keeps its connections open and never
answers, so nothing else would end the wait."""


class DatabaseUnavailableError(Exception):
    """The database does not answer; a repetition may help."""


class Database:
    """Pool of connections. Use `reading` for queries and `writing` for transactions."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.dialect = "sqlite" if settings.embedded else "postgresql"
        # A statement of SQLite that is cancelled may keep its lock, and a file on this machine does not hang.
        self._longest_seconds = None if settings.embedded else _LONGEST_SECONDS
        if settings.embedded:
            settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine: AsyncEngine = create_async_engine(address_of(settings), **_options(settings))
        if settings.embedded:
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_immediately)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that is committed at the end of the block.

        Raises:
            DatabaseUnavailableError: the database does not answer; nothing is changed, unless the connection was lost
                during the commit.
        """
        with unavailable():
            async with asyncio.timeout(self._longest_seconds), self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for queries.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        with unavailable():
            async with asyncio.timeout(self._longest_seconds), self._engine.connect() as connection:
                if self.dialect == "sqlite":
                    connection = await connection.execution_options(sqlite_reads=True)
                yield connection


@contextmanager
def unavailable() -> Iterator[None]:
    """Translate the errors of a lost or missing connection into `DatabaseUnavailableError`, and set the metric."""
    try:
        yield
        metrics.DATABASE_UP.set(1)
    except (OperationalError, InterfaceError, PoolTimeoutError, ConnectionError, TimeoutError) as error:
        metrics.DATABASE_UP.set(0)
        raise DatabaseUnavailableError(type(error).__name__) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            metrics.DATABASE_UP.set(0)
            raise DatabaseUnavailableError(type(error).__name__) from error
        raise


def address_of(settings: GatewaySettings) -> str:
    """Return the address of the database for SQLAlchemy."""
    if settings.embedded:
        return f"sqlite+aiosqlite:///{database_file(settings)}"
    return settings.database_url.replace("postgresql://", "postgresql+psycopg://", 1)


def database_file(settings: GatewaySettings) -> Path:
    """Return the file of the SQLite database."""
    return settings.data / "gateway.db"


def _options(settings: GatewaySettings) -> dict[str, Any]:
    if settings.embedded:
        return {"connect_args": {"timeout": _BUSY_MILLISECONDS / 1000}}
    return {
        "connect_args": {"connect_timeout": _CONNECT_SECONDS, **_LOST_PEER},
        "pool_size": 8,
        "max_overflow": 8,
        "pool_timeout": _CONNECT_SECONDS,
        "pool_pre_ping": True,
    }


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # this module begins the transactions, see `_begin_immediately`
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={_BUSY_MILLISECONDS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediately(connection: Any) -> None:
    """Begin a transaction of SQLite as a writer.

    A transaction that begins with a query and then writes fails at once, without waiting, if another one wrote between.
    """
    is_reading = connection.get_execution_options().get("sqlite_reads", False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
