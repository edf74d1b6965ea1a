from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.settings import GatewaySettings
from tests.gateway_servers import new_postgresql_database, running_postgresql


def test_a_hung_database_is_unavailable_within_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def query(database: Database) -> int:
        async with database.reading() as connection:
            return int(await connection.scalar(text("SELECT 7")))

    async def hang_in_a_transaction(database: Database) -> None:
        async with database.writing() as connection:
            await connection.execute(text("SELECT 1"))
            server.pause()
            await connection.execute(text("SELECT 1"))

    async def check(settings: GatewaySettings) -> None:
        database = Database(settings)
        try:
            assert list(await asyncio.gather(query(database), query(database))) == [
                7,
                7,
            ]  # two connections are in the pool
            monkeypatch.setattr(database, "_longest_seconds", 2.0)
            hanging = asyncio.gather(hang_in_a_transaction(database), return_exceptions=True)
            async with asyncio.timeout(60):  # psycopg tries for up to 10 s to cancel a statement
                first = await hanging
                last = await asyncio.gather(query(database), return_exceptions=True)
            assert [type(error) for error in (*first, *last)] == [DatabaseUnavailableError] * 2
            monkeypatch.undo()
            server.resume()
            assert await query(database) == 7
        finally:
            server.resume()
            await database.close()

    with running_postgresql(tmp_path) as server:
        asyncio.run(check(GatewaySettings(data=tmp_path, database_url=new_postgresql_database(server))))
