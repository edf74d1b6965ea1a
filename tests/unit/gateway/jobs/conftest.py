"""Fixtures: a database with accounts, the jobs of one process, and an object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from gateway.accounts.directory import Directory
from gateway.accounts.limits import Limits
from gateway.accounts.principal import Principal
from gateway.database.engine import Database
from gateway.database.tables import Job
from gateway.jobs.files import s3
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

    async def job_ids(self) -> list[str]:
        """Return the ids of all jobs."""
        async with self.database.reading() as connection:
            return list((await connection.execute(select(Job.id))).scalars().all())

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
        yield Bench(settings, database, Jobs(settings, database, Limits(settings)), east, west)
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
def with_embedded_bench(embedded_settings: GatewaySettings) -> Callable[..., None]:
    """The same for SQLite alone, for what does not depend on the database."""

    def run(work: Callable[[Bench], Coroutine[Any, Any, None]], **given: Any) -> None:
        async def main() -> None:
            async with open_bench(replace(embedded_settings, **given)) as bench:
                await work(bench)

        asyncio.run(main())

    return run


@pytest.fixture
def place(moto: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of an empty place in an object store."""
    s3.object_store.cache_clear()
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    s3.object_store().mkdir(bucket)
    yield f"s3://{bucket}/jobs/here"
    s3.object_store.cache_clear()
