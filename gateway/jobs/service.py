"""Jobs of one process: what the routes use, and the workers inside the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Row, select

from gateway.accounts.limits import Limits
from gateway.accounts.principal import Principal
from gateway.database.engine import Database
from gateway.database.pages import read_page
from gateway.database.tables import Job
from gateway.jobs.creation import Creation
from gateway.jobs.files.opening import open_files
from gateway.jobs.files.store import StoreError
from gateway.jobs.leases import Leases
from gateway.jobs.states import ENDED, JobState
from gateway.jobs.upkeep import Upkeep
from gateway.jobs.webhooks.addresses import Reachable
from gateway.jobs.webhooks.deliveries import Deliveries, WebhookSecrets
from gateway.jobs.worker import Worker, remove_leftovers
from gateway.problems import Problem
from gateway.settings import GatewaySettings

_DEAD_SECONDS: Final = 60.0


class Jobs:
    """The jobs, as the routes and the workers of one process use them."""

    def __init__(self, settings: GatewaySettings, database: Database, limits: Limits) -> None:
        self._settings = settings
        self._database = database
        self._limits = limits
        self.files = open_files(settings)
        self.leases = Leases(database, settings.lease_seconds)
        self.secrets = WebhookSecrets(database)
        self.creation = Creation(settings, database, self.files, self.secrets)
        self.create = self.creation.create
        self._upkeep = Upkeep(database, self.files, self.leases, retention_seconds=settings.job_retention_seconds)
        self._workers: list[Worker] = []

    @asynccontextmanager
    async def working(self, count: int, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Run workers during the block. At its end the jobs in hand are given back.

        Args:
            count: number of workers; with 0 nothing runs.
            stopping: set when the process stops.
        """
        if not count:
            yield
            return
        await asyncio.to_thread(remove_leftovers, self._settings)
        self._workers = [
            Worker(self._settings, self._database, self._limits, self.leases, self.files) for _ in range(count)
        ]
        deliveries = Deliveries(self._database, Reachable(self._settings.webhooks_to))
        tasks = [
            *(asyncio.create_task(worker.run(stopping, self.creation.created)) for worker in self._workers),
            asyncio.create_task(deliveries.run(stopping)),
            asyncio.create_task(self._upkeep.run(stopping)),
        ]
        try:
            yield
        finally:
            stopping.set()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def alive(self) -> bool:
        """Whether every worker of the process has looked for a job, or renewed its lease, within a minute."""
        return all(time.monotonic() - worker.last_look < _DEAD_SECONDS for worker in self._workers)

    async def get(self, principal: Principal, job_id: str) -> Row[Any]:
        """Return a job of the sender's account.

        Raises:
            Problem: the account has no such job.
        """
        query = select(Job).where(Job.id == job_id, Job.account_id == principal.account_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise Problem("not-found", "no such job", where=job_id[:100])
        return row

    async def page(
        self, principal: Principal, *, state: JobState | None, limit: int, cursor: str | None
    ) -> tuple[list[Row[Any]], str | None]:
        """Return a page of the jobs of the sender's account, the newest first, and the cursor of the next page.

        Raises:
            Problem: the cursor is invalid.
        """
        table = Job.__table__
        query = select(table).where(table.c.account_id == principal.account_id)
        if state is not None:
            query = query.where(table.c.state == state)
        async with self._database.reading() as connection:
            return await read_page(connection, query, [table.c.id], limit=limit, cursor=cursor, newest_first=True)

    async def cancel_or_remove(self, principal: Principal, job_id: str) -> Row[Any] | None:
        """Cancel a job, or delete one that has ended with its files; return None if it is deleted.

        Raises:
            Problem: the account has no such job.
        """
        row = await self.leases.cancel(principal.account_id, job_id)
        if row is not None:
            return row
        row = await self.get(principal, job_id)
        if row.state not in ENDED:  # a worker has just begun it
            raise Problem("conflict", "the job has just changed", where="state", fix="repeat the request")
        try:
            await self._upkeep.remove(job_id)
        except StoreError as error:
            raise Problem.of("store-unavailable", error) from error
        return None
