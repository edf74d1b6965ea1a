"""Idempotency keys in the database: who executes a request, and the answer that repetitions get."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.background import repeating
from gateway.database.engine import Database
from gateway.database.tables import IdempotencyKey
from gateway.database.upsert import insert_into
from gateway.ids import new_id
from gateway.problems import Problem

KEPT_SECONDS: Final = 24 * 3_600.0
"""Time for which a key belongs to its first request, s."""
LOCK_SECONDS: Final = 30.0
"""Time after which a request whose process died counts as lost, s."""
RENEWAL_SECONDS: Final = 10.0
"""Time between two renewals of the lock, s."""
LARGEST_ANSWER: Final = 2**20
"""Bytes of the largest answer that is stored."""
_CLEANUP_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """Answer to an earlier request."""

    fingerprint: bytes
    status: int
    headers: dict[str, str]
    body: bytes


class Claims:
    """Claims of all accounts on their idempotency keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self) -> AbstractAsyncContextManager[None]:
        """Delete expired keys from time to time during the block."""
        return repeating(self._clean_up, seconds=_CLEANUP_SECONDS, failure="expired keys were not deleted")

    async def claim(self, account_id: str, key: str) -> Claim | StoredAnswer:
        """Claim a key for a request, or return the answer to the earlier request with it.

        Raises:
            Problem: the earlier request has not been answered yet.
            DatabaseUnavailableError: the database does not answer.
        """
        now = time.time()
        table = IdempotencyKey
        claim = Claim(self._database, account_id, key)
        values: dict[str, Any] = {
            "fingerprint": b"",
            "owner": claim.owner,
            "status": None,
            "headers": None,
            "body": None,
            "locked_until": now + LOCK_SECONDS,
            "expires_at": now + KEPT_SECONDS,
        }
        is_free = or_(table.expires_at <= now, table.status.is_(None) & (table.locked_until <= now))
        async with self._database.writing() as connection:
            insert = insert_into(connection, table).values(account_id=account_id, key=key, **values)
            upsert = insert.on_conflict_do_update(
                index_elements=[table.account_id, table.key], set_=values, where=is_free
            )
            if (await connection.execute(upsert.returning(table.owner))).first() is not None:
                return claim
            query = select(table.fingerprint, table.status, table.headers, table.body)
            row = (await connection.execute(query.where(table.account_id == account_id, table.key == key))).first()
        if row is None or row.status is None:
            raise Problem(
                "request-in-flight",
                "a request with this key is being executed",
                where="Idempotency-Key",
                retry_after=_RETRY_SECONDS,
            )
        return StoredAnswer(
            fingerprint=row.fingerprint, status=row.status, headers=row.headers or {}, body=row.body or b""
        )

    async def _clean_up(self) -> None:
        async with self._database.writing() as connection:
            await connection.execute(delete(IdempotencyKey).where(IdempotencyKey.expires_at <= time.time()))


@dataclass(slots=True, eq=False)
class Claim:
    """Right to execute the request of a key. It is in `scope["state"]["claim"]`."""

    database: Database
    account_id: str
    key: str
    owner: str = field(default_factory=lambda: new_id("claim"))
    fingerprint_of_body: Callable[[], bytes] = bytes
    """Returns the hash of the request, which is complete when the body was read."""
    is_stored: bool = False

    async def store(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Store the answer in a transaction of its own. It is not stored if another request has taken the key over."""
        async with self.database.writing() as connection:
            await self._store(connection, status, headers, body)

    async def store_within(
        self, connection: AsyncConnection, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Store the answer in the transaction that has the effects of the request, so that both happen or none.

        A route calls it after it has read the body, and then answers with the same status, headers and body.

        Raises:
            Problem: another request has taken the key over, because this one was stopped for longer than its lock. The
                transaction must be rolled back.
        """
        if not await self._store(connection, status, headers, body):
            raise Problem("request-in-flight", "another request with this key is being executed")
        self.is_stored = True

    async def _store(self, connection: AsyncConnection, status: int, headers: dict[str, str], body: bytes) -> bool:
        values = {
            "fingerprint": self.fingerprint_of_body(),
            "status": status,
            "headers": headers,
            "body": body,
            "expires_at": time.time() + KEPT_SECONDS,
        }
        statement = update(IdempotencyKey).where(*self._is_mine()).values(**values).returning(IdempotencyKey.owner)
        return (await connection.execute(statement)).first() is not None

    async def renew(self) -> None:
        """Extend the lock."""
        async with self.database.writing() as connection:
            until = time.time() + LOCK_SECONDS
            await connection.execute(update(IdempotencyKey).where(*self._is_mine()).values(locked_until=until))

    async def release(self) -> None:
        """Give the key back without an answer, so that a repetition is executed."""
        async with self.database.writing() as connection:
            await connection.execute(delete(IdempotencyKey).where(*self._is_mine(), IdempotencyKey.status.is_(None)))

    def _is_mine(self) -> tuple[Any, ...]:
        return (
            IdempotencyKey.account_id == self.account_id,
            IdempotencyKey.key == self.key,
            IdempotencyKey.owner == self.owner,
        )
