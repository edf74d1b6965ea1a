from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from gateway.database.engine import Database
from gateway.database.pages import read_page
from gateway.database.tables import Account, Usage
from gateway.problems import Problem
from gateway.settings import GatewaySettings

COLUMNS = [Account.created_at, Account.id]


@asynccontextmanager
async def filled(settings: GatewaySettings) -> AsyncIterator[Database]:
    """Ten accounts; several of them share a time."""
    database = Database(settings)
    rows = [{"id": f"acct_{n}", "name": str(n), "tier": "standard", "created_at": n // 3 + 0.1} for n in range(10)]
    try:
        async with database.writing() as connection:
            await connection.execute(delete(Account))
            await connection.execute(insert(Account), rows)
        yield database
    finally:
        await database.close()


async def page(database: Database, **options: Any) -> tuple[list[str], str | None]:
    async with database.reading() as connection:
        query = select(Account.id, Account.created_at)
        rows, cursor = await read_page(connection, query, COLUMNS, **options)
    return [row.id for row in rows], cursor


def test_the_pages_together_have_every_row_once_and_in_order(gateway_settings: GatewaySettings) -> None:
    async def main(limit: int, newest_first: bool) -> None:
        async with filled(gateway_settings) as database:
            found, cursor = await page(database, limit=limit, newest_first=newest_first)
            pages = 1
            while cursor is not None:
                more, cursor = await page(database, limit=limit, newest_first=newest_first, cursor=cursor)
                found += more
                pages += 1
            assert found == sorted((f"acct_{n}" for n in range(10)), reverse=newest_first)
            assert pages == -(-10 // limit)

    for limit in (1, 3, 5, 9, 10, 11):
        for newest_first in (False, True):
            asyncio.run(main(limit, newest_first))


def test_a_row_that_is_added_between_two_pages_moves_no_other(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with filled(gateway_settings) as database:
            first, cursor = await page(database, limit=4, newest_first=True)
            async with database.writing() as connection:
                values = {"id": "acct_new", "name": "new", "tier": "standard", "created_at": time.time()}
                await connection.execute(insert(Account).values(values))
            second, _ = await page(database, limit=4, newest_first=True, cursor=cursor)
            assert first + second == [f"acct_{n}" for n in range(9, 1, -1)]

    asyncio.run(main())


def forged(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


INVALID = [
    "",
    "not base64!",
    "é",
    "A" * 2_000,
    forged(),
    forged("accounts"),
    forged("accounts", 0.1),
    forged("accounts", 0.1, "acct_1", 2),
    forged("accounts", "0.1", "acct_1"),
    forged("accounts", 0.1, 7),
    forged("accounts", 0.1, "a\0b"),
    forged("accounts", None, "acct_1"),
    forged("keys", 0.1, "acct_1"),
    base64.urlsafe_b64encode(b"{}").decode(),
    base64.urlsafe_b64encode(b"[" * 700).decode(),
]


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_an_invalid_cursor_is_a_problem(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with filled(gateway_settings) as database:
            for cursor in INVALID:
                with pytest.raises(Problem) as raised:
                    await page(database, limit=3, cursor=cursor)
                assert (raised.value.code, raised.value.fields["where"]) == ("invalid-value", "query parameter cursor")

    asyncio.run(main())


@pytest.mark.parametrize("gateway_settings", ["sqlite"], indirect=True)
def test_a_cursor_with_a_number_that_no_column_holds_is_a_problem(gateway_settings: GatewaySettings) -> None:
    async def main() -> None:
        async with filled(gateway_settings) as database:
            columns = [Usage.hour, Usage.account_id]
            async with database.reading() as connection:
                with pytest.raises(Problem):
                    await read_page(
                        connection,
                        select(Usage.hour, Usage.account_id),
                        columns,
                        limit=3,
                        cursor=forged("usage", 10**30, "acct_1"),
                    )

    asyncio.run(main())
