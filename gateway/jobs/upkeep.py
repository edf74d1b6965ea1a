"""Upkeep of jobs: late ones expire, old ones are removed, and so is what killed processes left."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.sql.elements import ColumnElement

from gateway import metrics
from gateway.database.clock import now
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Job, WebhookDelivery
from gateway.ids import first_id
from gateway.jobs.files.store import JobFiles, StoreError
from gateway.jobs.leases import Leases
from gateway.jobs.states import ENDED, JobState
from gateway.jobs.waiting import first_of
from gateway.jobs.webhooks.deliveries import WAITING

_UPKEEP_SECONDS: Final = 10.0
_ORPHAN_SECONDS: Final = 86_400.0
"""Age at which files without a job, which a killed process has left, are removed, s."""
_ORPHANS_EVERY: Final = 3_600.0

_log = structlog.get_logger(__name__)


class Upkeep:
    """Upkeep of the tables and files of jobs. Several processes may do it at once."""

    def __init__(self, database: Database, files: JobFiles, leases: Leases, *, retention_seconds: float) -> None:
        self._database = database
        self._files = files
        self._leases = leases
        self._retention = retention_seconds
        self._now: ColumnElement[float] = now(database)
        self._orphans_removed = -_ORPHANS_EVERY

    async def run(self, stopping: asyncio.Event) -> None:
        """Repeat the upkeep until the process stops."""
        while not stopping.is_set():
            try:
                await self.once()
            except (DatabaseUnavailableError, StoreError) as error:
                _log.warning("the upkeep of jobs failed", reason=str(error))
            except Exception:
                _log.exception("the upkeep of jobs failed")
            await first_of(stopping.wait(), seconds=_UPKEEP_SECONDS)

    async def once(self) -> None:
        """Expire late jobs, remove old ones and what killed processes left, and count the jobs by state."""
        await self._leases.expire()
        old = select(Job.id).where(Job.expires_at < self._now, Job.state.in_(ENDED)).limit(100)
        async with self._database.reading() as connection:
            ids = list((await connection.execute(old)).scalars().all())
        for job_id in ids:
            await self.remove(job_id)
        async with self._database.writing() as connection:
            await connection.execute(
                delete(WebhookDelivery).where(
                    WebhookDelivery.state != WAITING,
                    WebhookDelivery.created_at < self._now - self._retention,
                )
            )
            counted = (await connection.execute(select(Job.state, func.count()).group_by(Job.state))).all()
        counts: dict[str, int] = {row[0]: row[1] for row in counted}
        for state in JobState:
            metrics.JOBS.labels(state).set(counts.get(state, 0))
        if time.monotonic() - self._orphans_removed > _ORPHANS_EVERY:
            self._orphans_removed = time.monotonic()
            await self._remove_orphans()

    async def _remove_orphans(self) -> None:
        """Remove the files without a job that are a day old: a process was killed between upload and row."""
        oldest = first_id("job", time.time() - _ORPHAN_SECONDS)
        for job_id in await asyncio.to_thread(self._files.job_ids):
            if job_id < oldest:
                async with self._database.reading() as connection:
                    known = (await connection.execute(select(Job.id).where(Job.id == job_id))).first()
                if known is None:
                    await asyncio.to_thread(self._files.remove, job_id)

    async def remove(self, job_id: str) -> None:
        """Remove an ended job: its files, then its row, so that no file is left if this process ends in between.

        Raises:
            StoreError: the store is unavailable.
        """
        await asyncio.to_thread(self._files.remove, job_id)
        async with self._database.writing() as connection:
            await connection.execute(delete(Job).where(Job.id == job_id, Job.state.in_(ENDED)))
