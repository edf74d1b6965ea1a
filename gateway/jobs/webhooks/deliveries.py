"""Webhooks: signed messages about jobs that have ended, delivered from an outbox until the receiver accepts them."""

from __future__ import annotations

import asyncio
import random
import secrets
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import structlog
from sqlalchemy import Row, case, or_, select, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.elements import ColumnElement
from standardwebhooks import Webhook

from gateway import metrics
from gateway.database.clock import now
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import WebhookDelivery, WebhookSecret
from gateway.database.upsert import insert_into
from gateway.jobs.waiting import first_of
from gateway.jobs.webhooks.addresses import Address, Reachable, RefusedAddressError

WAITING, DELIVERED, FAILED = "waiting", "delivered", "failed"

_TRY_SECONDS: Final = 10.0
"""Longest time of one try, s."""
_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 4 * 3_600.0
_DAY: Final = 86_400.0
"""Time after which a message is given up, s."""
_IDLE_SECONDS: Final = 1.0
_AT_ONCE: Final = 4
"""Number of messages that one process delivers at a time."""

_log = structlog.get_logger(__name__)


class WebhookSecrets:
    """Secrets of the accounts, with which receivers verify the messages."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = now(database)

    async def created_at(self, account_id: str) -> float | None:
        """Return when the secret of an account was created; None if it has none."""
        query = select(WebhookSecret.created_at).where(WebhookSecret.account_id == account_id)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def rotate(self, account_id: str) -> str:
        """Create a new secret, which replaces the present one, and return it."""
        secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
        async with self._database.writing() as connection:
            new = insert_into(connection, WebhookSecret).values(
                account_id=account_id, secret=secret, created_at=self._now
            )
            replaced = {"secret": new.excluded.secret, "created_at": new.excluded.created_at}
            await connection.execute(new.on_conflict_do_update(index_elements=["account_id"], set_=replaced))
        return secret


class Deliveries:
    """Delivers the messages in the outbox."""

    def __init__(self, database: Database, reachable: Reachable, *, first_delay: float = _FIRST_DELAY) -> None:
        """Prepare the delivery.

        Args:
            database: the database with the outbox.
            reachable: addresses that may be reached.
            first_delay: time between the first two tries, s; each further one is four times as long.
        """
        self._database = database
        self._reachable = reachable
        self._first_delay = first_delay
        self._now: ColumnElement[float] = now(database)

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver messages until the process stops."""
        await asyncio.gather(*(self._run_one(stopping) for _ in range(_AT_ONCE)))

    async def _run_one(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            found = False
            try:
                found = await self.deliver_next()
            except DatabaseUnavailableError:
                pass  # the lease of the message ends, and it is sent again
            except Exception:
                _log.exception("the delivery of a webhook failed")
            if not found:
                await first_of(stopping.wait(), seconds=_IDLE_SECONDS)

    async def deliver_next(self) -> bool:
        """Try to deliver the message that is due first; return whether there was one.

        Accounts without a message in delivery precede the others, so that slow receivers of one account delay
        those of others by one delivery at most.
        """
        other = aliased(WebhookDelivery)
        in_delivery = select(other.account_id).where(other.state == WAITING, other.lease_until >= self._now)
        due = (
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.state == WAITING,
                WebhookDelivery.next_at <= self._now,
                or_(WebhookDelivery.lease_until.is_(None), WebhookDelivery.lease_until < self._now),
            )
            .order_by(case((WebhookDelivery.account_id.in_(in_delivery), 1), else_=0), WebhookDelivery.next_at)
            .limit(1)
            .with_for_update(skip_locked=True, of=WebhookDelivery)
        )
        taken = (
            update(WebhookDelivery)
            .where(WebhookDelivery.id == due.scalar_subquery())
            .values(
                lease_until=self._now + 3 * _TRY_SECONDS,
                fence=WebhookDelivery.fence + 1,
                attempts=WebhookDelivery.attempts + 1,
            )
            .returning(WebhookDelivery, (self._now - WebhookDelivery.created_at).label("age"))
        )
        async with self._database.writing() as connection:
            row = (await connection.execute(taken)).one_or_none()
            if row is None:
                return False
            secret = (
                await connection.execute(select(WebhookSecret.secret).where(WebhookSecret.account_id == row.account_id))
            ).scalar_one_or_none()
        error, final = await self._try(row, secret)
        metrics.WEBHOOKS.labels("delivered" if error is None else "failed").inc()
        delay = min(self._first_delay * 4 ** (row.attempts - 1), _LONGEST_DELAY) * random.uniform(0.8, 1.2)
        values: dict[str, Any] = {"lease_until": None, "last_error": error}
        if error is None:
            values["state"] = DELIVERED
        elif final or row.age + delay > _DAY:
            values["state"] = FAILED
            _log.warning("a webhook was given up", job_id=row.job_id, attempts=row.attempts, reason=error)
        else:
            values["next_at"] = self._now + delay
        ended = update(WebhookDelivery).where(WebhookDelivery.id == row.id, WebhookDelivery.fence == row.fence)
        async with self._database.writing() as connection:
            await connection.execute(ended.values(values))
        return True

    async def _try(self, row: Row[*tuple[Any, ...]], secret: str | None) -> tuple[str | None, bool]:
        """Send one message; return what was wrong, and whether a repetition is useless."""
        if secret is None:
            return "the account has no secret", True
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                parts = self._reachable.parse(row.url)
                address = await self._reachable.resolve(parts)
                status = await _post(row, secret, address)
        except RefusedAddressError as error:
            return error.problem, True
        except (OSError, UnicodeError, httpx.HTTPError, httpx.InvalidURL) as error:  # TimeoutError is an OSError
            return type(error).__name__, False
        if not httpx.codes.is_success(status):
            return f"status {status}", False
        return None, False


async def _post(row: Row[*tuple[Any, ...]], secret: str, address: Address) -> int:
    """Post a message to the address to which its host was resolved, and return the status of the answer.

    The host stays the name in the header `Host` and in the certificate. Redirects are not followed, because they might
    lead to an address that was not checked. The body of the answer is not read.
    """
    url = httpx.URL(row.url)
    sent_at = datetime.now(UTC)
    headers = {
        "host": url.netloc.decode("ascii"),
        "content-type": "application/json",
        "user-agent": "reentry-gateway",
        "webhook-id": row.id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(secret).sign(row.id, sent_at, row.body.decode()),
    }
    async with (
        httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=_TRY_SECONDS) as client,
        client.stream(
            "POST",
            url.copy_with(host=str(address)),
            content=row.body,
            headers=headers,
            extensions={"sni_hostname": url.host},
        ) as response,
    ):
        return response.status_code
