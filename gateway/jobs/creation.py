"""Creation of jobs: the upload of a file, or the check of a reference to one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final

from sqlalchemy import Row, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement
from starlette.requests import ClientDisconnect

from gateway.accounts.claims import Claim
from gateway.accounts.principal import Principal
from gateway.database.clock import now
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Account, Job
from gateway.ids import new_id
from gateway.jobs.answers import JobAnswer
from gateway.jobs.files.store import JobFiles, StoreError
from gateway.jobs.scoring_child import ARROW_SUFFIX
from gateway.jobs.states import ACTIVE, JobState
from gateway.jobs.webhooks.addresses import Reachable, RefusedAddressError
from gateway.jobs.webhooks.deliveries import WebhookSecrets
from gateway.problems import Problem
from gateway.scoring.bodies import ARROW, CSV, PARQUET
from gateway.settings import GatewaySettings

MEDIA_TYPES: Final = {CSV: "source.csv", PARQUET: "source.parquet", ARROW: f"source{ARROW_SUFFIX}"}
"""Names of the files of jobs by the media type of the upload."""

_RETRY_SECONDS: Final = 10.0
"""Time after which an account with too many active jobs may try again, s."""
_PART: Final = 2**20
"""Bytes that are written to the store at once."""
_SUFFIXES: Final = (".csv", ".parquet", ".pq")


class Creation:
    """Creates jobs."""

    def __init__(self, settings: GatewaySettings, database: Database, files: JobFiles, secrets: WebhookSecrets) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._secrets = secrets
        self._reachable = Reachable(settings.webhooks_to)
        self._now: ColumnElement[float] = now(database)
        self.created = asyncio.Event()
        """Set whenever this process has created a job."""

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
        claim: Claim | None = None,
        respond_async: bool = False,
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
            claim: claim on the request's Idempotency-Key, whose answer is stored together with the job.
            respond_async: whether the answer applies `Prefer: respond-async`.

        Raises:
            Problem: the job cannot be created; nothing is left of it.
            DatabaseUnavailableError: the database does not answer.
        """
        async with self._database.reading() as connection:
            await _check_active(connection, principal)  # otherwise an upload would be in vain
        if webhook_url is not None:
            await self._check_webhook(principal, webhook_url)
        job_id = new_id("job")

        async def insert_row(name: str, size: int) -> Row[Any]:
            deadline = self._now + (self._settings.job_seconds if deadline_seconds is None else deadline_seconds)
            values = {
                "id": job_id,
                "account_id": principal.account_id,
                "key_id": principal.key_id,
                "state": JobState.VALIDATING,
                "source": name,
                "bytes": size,
                "created_at": self._now,
                "deadline_at": deadline,
                "expires_at": deadline + self._settings.job_retention_seconds,
                "request_id": request_id,
                "webhook_url": webhook_url,
            }
            async with self._database.writing() as connection:
                # One request of an account at a time counts and inserts. SQLite has one writer at a time anyway.
                own = select(Account.id).where(Account.id == principal.account_id)
                await connection.execute(own.with_for_update(key_share=True))
                await _check_active(connection, principal)
                row = (await connection.execute(insert(Job).values(values).returning(Job))).one()
                if claim is not None:
                    answer = JobAnswer.of(row)
                    headers = answer.accepted_headers(respond_async=respond_async)
                    await claim.store_within(connection, 202, headers, answer.model_dump_json().encode())
            self.created.set()
            return row

        if source is not None:
            return await insert_row(source, await self._check_source(principal, source))
        name = MEDIA_TYPES.get(media_type)
        if name is None or content is None:
            raise Problem(
                *("unsupported-media-type", "the type of the file is not supported"),
                where="Content-Type",
                expected=", ".join((*MEDIA_TYPES, "application/json with a reference")),
                got=media_type or "no type",
            )
        try:
            return await self._upload(job_id, name, content, insert_row)
        except StoreError as error:
            raise Problem.of("store-unavailable", error) from error

    async def _upload(
        self,
        job_id: str,
        name: str,
        content: AsyncIterable[bytes],
        insert_row: Callable[[str, int], Awaitable[Row[Any]]],
    ) -> Row[Any]:
        """Store a file and insert its row; if either fails, nothing is left."""
        upload = await asyncio.to_thread(self._files.upload, job_id, name)
        is_committed = False

        async def undo() -> None:
            if is_committed:
                async with self._database.reading() as connection:
                    if (await connection.execute(select(Job.id).where(Job.id == job_id))).first() is not None:
                        return
            await asyncio.to_thread(upload.discard)
            await asyncio.to_thread(self._files.remove, job_id)

        try:
            try:
                size = await self._receive(upload.write, content)
            except ClientDisconnect as error:
                raise Problem("invalid-request", "the connection ended before the file") from error
            await asyncio.to_thread(upload.commit)
            is_committed = True
            return await insert_row(name, size)
        except BaseException:
            # A shield, because a client that has gone away cancels the request. Without the database it is unknown
            # whether the row exists; the upkeep removes the file if it does not.
            with suppress(DatabaseUnavailableError):
                await asyncio.shield(undo())
            raise

    async def _check_webhook(self, principal: Principal, url: str) -> None:
        try:
            self._reachable.parse(url)
        except RefusedAddressError as error:
            raise Problem.of("invalid-value", error, where="webhook_url") from error
        if await self._secrets.created_at(principal.account_id) is None:
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
        from gateway.jobs.files.s3 import object_size

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

    async def _receive(self, write: Callable[[bytes], None], content: AsyncIterable[bytes]) -> int:
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


async def _check_active(connection: AsyncConnection, principal: Principal) -> None:
    """Refuse another job of an account that has as many active ones as its tier allows."""
    active = select(func.count()).where(Job.account_id == principal.account_id, Job.state.in_(ACTIVE))
    count = (await connection.execute(active)).scalar_one()
    if count >= principal.tier.active_jobs:
        raise Problem(
            *("rate-limited", "too many active jobs"),
            expected=f"at most {principal.tier.active_jobs} jobs that have not ended",
            got=f"{count} jobs",
            fix="wait for a job to end, or cancel one",
            retry_after=_RETRY_SECONDS,
        )
