"""Fixtures: a database with accounts, and the jobs of one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from gateway.accounts.directory import Directory
from gateway.accounts.principal import Principal
from gateway.database.engine import Database
from gateway.database.migrate import migrate
from gateway.database.tables import Job
from gateway.jobs.service import Jobs
from gateway.settings import GatewaySettings

ROWS = b"timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity\n"


@dataclass
class Bench:
    """The jobs of one process, and two accounts."""

    settings: GatewaySettings
    database: Database
    jobs: Jobs
    east: Principal
    west: Principal

    async def create(self, principal: Principal | None = None, **given: Any) -> str:
        """Create a job and return its id."""

        async def content() -> AsyncIterator[bytes]:
            yield ROWS

        row = await self.jobs.create(
            principal or self.east,
            **{"content": content(), "media_type": "text/csv", "request_id": "req_1", **given},
        )
        return str(row.id)

    async def row(self, job_id: str) -> Row[Any]:
        """Return the row of a job."""
        async with self.database.reading() as connection:
            return (await connection.execute(select(Job).where(Job.id == job_id))).one()

    async def change(self, job_id: str, **values: Any) -> None:
        """Change the row of a job."""
        async with self.database.writing() as connection:
            await connection.execute(update(Job).where(Job.id == job_id).values(values))


@asynccontextmanager
async def open_bench(settings: GatewaySettings) -> AsyncIterator[Bench]:
    """Open the database and create two accounts."""
    database = Database(settings)
    try:
        directory = Directory(database, settings)
        accounts = [await directory.create_account(name) for name in ("east", "west")]
        east, west = (
            Principal(
                account_id=account,
                key_id="key",
                scopes=frozenset({"jobs"}),
                tier_name="standard",
                tier=settings.tiers["standard"],
            )
            for account in accounts
        )
        yield Bench(settings, database, Jobs(settings, database), east, west)
    finally:
        await database.close()


@pytest.fixture
def with_bench(gateway_settings: GatewaySettings) -> Callable[..., None]:
    """Run a coroutine function with an open bench, once for SQLite and once for PostgreSQL."""

    def run(work: Callable[[Bench], Coroutine[Any, Any, None]], **settings: Any) -> None:
        async def main() -> None:
            async with open_bench(replace(gateway_settings, **settings)) as bench:
                await work(bench)

        asyncio.run(main())

    return run


@pytest.fixture
def with_embedded_bench(tmp_path: Path) -> Callable[..., None]:
    """The same for SQLite alone, for what does not depend on the database."""
    settings = GatewaySettings(data=tmp_path / "gateway", port=0, metrics_port=0)
    migrate(settings)

    def run(work: Callable[[Bench], Coroutine[Any, Any, None]], **given: Any) -> None:
        async def main() -> None:
            async with open_bench(replace(settings, **given)) as bench:
                await work(bench)

        asyncio.run(main())

    return run
