"""Jobs of one process: their creation, the workers inside the process, and the upkeep of tables and files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any, Final

import structlog
from sqlalchemy import Row, delete, func, insert, select
from sqlalchemy.sql.elements import ColumnElement

from gateway import metrics
from gateway.accounts.principal import Principal
from gateway.database.clock import now
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.pages import read_page
from gateway.database.tables import Job, WebhookDelivery
from gateway.ids import first_id, new_id
from gateway.jobs.addresses import Reachable, RefusedAddressError
from gateway.jobs.files import StoreError, open_files
from gateway.jobs.leases import Leases
from gateway.jobs.scoring_child import ARROW_SUFFIX
from gateway.jobs.states import ENDED, JobState
from gateway.jobs.waiting import first_of
from gateway.jobs.webhooks import Deliveries, WebhookSecrets
from gateway.jobs.worker import Worker, remove_leftovers
from gateway.problems import Problem
from gateway.scoring.bodies import ARROW, CSV, PARQUET
from gateway.settings import GatewaySettings

MEDIA_TYPES: Final = {CSV: "source.csv", PARQUET: "source.parquet", ARROW: f"source{ARROW_SUFFIX}"}
"""Names of the files of jobs by the media type of the upload."""

_UPKEEP_SECONDS: Final = 10.0
_ORPHAN_SECONDS: Final = 86_400.0
"""Age at which files without a job, which a killed process has left, are removed, s."""
_ORPHANS_EVERY: Final = 3_600.0
_DEAD_SECONDS: Final = 60.0
_PART: Final = 2**20
"""Bytes that are written to the store at once."""
_SUFFIXES: Final = (".csv", ".parquet", ".pq")

_log = structlog.get_logger(__name__)


class Jobs:
    """The jobs, as the routes and the workers of one process use them."""

    def __init__(self, settings: GatewaySettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._now: ColumnElement[float] = now(database)
        self.files = open_files(settings)
        self.leases = Leases(database, settings.lease_seconds)
        self.secrets = WebhookSecrets(database)
        self._reachable = Reachable(settings.webhooks_to)
        self._wake = asyncio.Event()
        self._workers: list[Worker] = []
        self._orphans_removed = -_ORPHANS_EVERY

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
        self._workers = [Worker(self._settings, self.leases, self.files) for _ in range(count)]
        deliveries = Deliveries(self._database, self._reachable)
        tasks = [
            *(asyncio.create_task(worker.run(stopping, self._wake)) for worker in self._workers),
            asyncio.create_task(deliveries.run(stopping)),
            asyncio.create_task(self._run_upkeep(stopping)),
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

    async def create(
        self,
        principal: Principal,
        *,
        content: AsyncIterable[bytes] | None = None,
        media_type: str = "",
        source: str | None = None,
        webhook_url: str | None = None,
        deadline_seconds: float | None = None,
        request_id: str,
    ) -> Row[Any]:
        """Store a file, or check a reference to one, and create a job.

        Args:
            principal: sender of the request.
            content: parts of the file; None with `source`.
            media_type: type of the content, one of `MEDIA_TYPES`.
            source: address s3://... of the file.
            webhook_url: address that is told about the end of the job.
            deadline_seconds: time after which the job expires, s; None for the time of the settings.
            request_id: id of the request.

        Raises:
            Problem: the job cannot be created; nothing is left of it.
            DatabaseUnavailableError: the database does not answer.
        """
        if webhook_url is not None:
            await self._check_webhook(principal, webhook_url)
        job_id = new_id("job")
        if source is not None:
            size = await self._check_source(principal, source)
            return await self._insert(principal, job_id, source, size, webhook_url, deadline_seconds, request_id)
        assert content is not None
        name = MEDIA_TYPES.get(media_type)
        if name is None:
            raise Problem(
                *("unsupported-media-type", "the type of the file is not supported"),
                where="Content-Type",
                expected=", ".join((*MEDIA_TYPES, "application/json with a reference")),
                got=media_type or "no type",
            )
        try:
            upload = await asyncio.to_thread(self.files.upload, job_id, name)
            try:
                size = await self._receive(upload.write, content)
                await asyncio.to_thread(upload.commit)
                row = await self._insert(principal, job_id, name, size, webhook_url, deadline_seconds, request_id)
            except BaseException:
                # A shield, because a client that has gone away cancels the request.
                await asyncio.shield(asyncio.to_thread(self._remove_upload, upload, job_id))
                raise
        except StoreError as error:
            raise Problem.of("store-unavailable", error) from error
        return row

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
        query = select(Job).where(Job.account_id == principal.account_id)
        if state is not None:
            query = query.where(Job.state == state)
        async with self._database.reading() as connection:
            return await read_page(connection, query, [Job.id], limit=limit, cursor=cursor, newest_first=True)

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
        await self._remove(job_id)
        return None

    async def _check_webhook(self, principal: Principal, url: str) -> None:
        try:
            self._reachable.parse(url)
        except RefusedAddressError as error:
            raise Problem.of("invalid-value", error, where="webhook_url") from error
        if await self.secrets.created_at(principal.account_id) is None:
            raise Problem(
                *("conflict", "the account has no secret to sign webhooks with"),
                where="webhook_url",
                fix="create one first: POST /v1/webhook-secret",
            )

    async def _check_source(self, principal: Principal, source: str) -> int:
        """Return the size of the object that a reference names, if jobs of the account may refer to it."""
        prefixes = [prefix.replace("{account}", principal.account_id) for prefix in self._settings.sources]
        path = PurePosixPath(source.removeprefix("s3://"))
        plain = source.isprintable() and not set(source) & set("?#\\%*[]") and f"s3://{path}" == source
        if not plain or ".." in path.parts or not source.startswith(tuple(prefixes)):
            raise Problem(
                *("invalid-value", "jobs may not refer to this address"),
                where="source",
                expected=" or ".join(f"{prefix}..." for prefix in prefixes) or "an upload: no prefix is configured",
                got=source,
                fix="upload the file as the body of the request, or ask an operator to add its prefix to `sources`",
            )
        if path.suffix.lower() not in _SUFFIXES:
            raise Problem(
                *("invalid-value", "the type of the file is not supported"),
                where="source",
                expected="a name ending in " + " or ".join(_SUFFIXES),
                got=path.name,
            )
        from gateway.jobs.s3_files import object_size

        try:
            size = await asyncio.to_thread(object_size, source)
        except StoreError as error:
            raise Problem.of("store-unavailable", error) from error
        if size is None:
            raise Problem("invalid-value", "no such object", where="source", got=source)
        self._check_size(size)
        return size

    def _check_size(self, size: int) -> None:
        if size > self._settings.largest_upload:
            raise Problem(
                *("body-too-large", "the file is too large"),
                expected=f"at most {self._settings.largest_upload:,} bytes",
                fix="split the file between tracks",
            )
        if not size:
            raise Problem("invalid-request", "the file is empty", expected="a header and rows of tracks")

    async def _receive(self, write: Any, content: AsyncIterable[bytes]) -> int:
        size, waiting = 0, bytearray()
        async for part in content:
            size += len(part)
            self._check_size(size or 1)
            waiting += part
            if len(waiting) >= _PART:
                await asyncio.to_thread(write, bytes(waiting))
                waiting.clear()
        self._check_size(size)
        await asyncio.to_thread(write, bytes(waiting))
        return size

    def _remove_upload(self, upload: Any, job_id: str) -> None:
        upload.discard()
        self.files.remove(job_id)

    async def _insert(
        self,
        principal: Principal,
        job_id: str,
        source: str,
        size: int,
        webhook_url: str | None,
        deadline_seconds: float | None,
        request_id: str,
    ) -> Row[Any]:
        deadline = self._now + (self._settings.job_seconds if deadline_seconds is None else deadline_seconds)
        statement = (
            insert(Job)
            .values(
                id=job_id,
                account_id=principal.account_id,
                state=JobState.VALIDATING,
                source=source,
                options={},
                bytes=size,
                created_at=self._now,
                deadline_at=deadline,
                expires_at=deadline + self._settings.job_retention_seconds,
                request_id=request_id,
                webhook_url=webhook_url,
            )
            .returning(Job)
        )
        async with self._database.writing() as connection:
            row = (await connection.execute(statement)).one()
        self._wake.set()
        return row

    async def _remove(self, job_id: str) -> None:
        """Remove an ended job: its files, then its row, so that nothing is left if this process ends in between."""
        try:
            await asyncio.to_thread(self.files.remove, job_id)
        except StoreError as error:
            raise Problem.of("store-unavailable", error) from error
        async with self._database.writing() as connection:
            await connection.execute(delete(Job).where(Job.id == job_id, Job.state.in_(ENDED)))

    async def _run_upkeep(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self.keep_up()
            except (DatabaseUnavailableError, Problem, StoreError) as error:
                _log.warning("the upkeep of jobs failed", reason=str(error))
            except Exception:
                _log.exception("the upkeep of jobs failed")
            await first_of(stopping.wait(), seconds=_UPKEEP_SECONDS)

    async def keep_up(self) -> None:
        """Expire late jobs, remove old ones and what killed processes left, and count the jobs by state."""
        await self.leases.expire()
        old = select(Job.id).where(Job.expires_at < self._now, Job.state.in_(ENDED)).limit(100)
        async with self._database.reading() as connection:
            ids = list((await connection.execute(old)).scalars().all())
        for job_id in ids:
            await self._remove(job_id)
        async with self._database.writing() as connection:
            await connection.execute(
                delete(WebhookDelivery).where(
                    WebhookDelivery.state != "waiting",
                    WebhookDelivery.created_at < self._now - self._settings.job_retention_seconds,
                )
            )
            counts = dict(
                (await connection.execute(select(Job.state, func.count()).group_by(Job.state))).tuples().all()
            )
        for state in JobState:
            metrics.JOBS.labels(state).set(counts.get(state, 0))
        if time.monotonic() - self._orphans_removed > _ORPHANS_EVERY:
            self._orphans_removed = time.monotonic()
            await self._remove_orphans()

    async def _remove_orphans(self) -> None:
        """Remove the files without a job that are a day old: a process was killed between upload and row."""
        oldest = first_id("job", time.time() - _ORPHAN_SECONDS)
        for job_id in await asyncio.to_thread(self.files.job_ids):
            if job_id < oldest:
                async with self._database.reading() as connection:
                    known = (await connection.execute(select(Job.id).where(Job.id == job_id))).first()
                if known is None:
                    await asyncio.to_thread(self.files.remove, job_id)
