"""Directory of accounts and keys: creation, revocation, and the authentication of a key."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache
from sqlalchemy import insert, select

from gateway.accounts.keys import create_key, id_of, matches
from gateway.accounts.principal import Principal, Scope
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Account, Key
from gateway.ids import new_id
from gateway.problems import Problem
from gateway.settings import GatewaySettings

KNOWN_SECONDS: Final = 60.0
"""Time for which a key stays known while the database is away, s."""
_FRESH_SECONDS: Final = 1.0
"""Time for which a key is not looked up again, s."""


@dataclass(frozen=True, slots=True)
class _Known:
    hash: bytes
    principal: Principal
    expires_at: float | None
    looked_up: float


class Directory:
    """Accounts and keys in the database, with a cache of the keys in use."""

    def __init__(self, database: Database, settings: GatewaySettings) -> None:
        self._database = database
        self._tiers = settings.tiers
        self._known: TTLCache[str, _Known] = TTLCache(maxsize=10_000, ttl=KNOWN_SECONDS)

    async def authenticate(self, text: str) -> Principal:
        """Return the principal of a key.

        Raises:
            Problem: the key is invalid, expired or revoked, or is unknown while the database is away.
        """
        key_id = id_of(text)
        if key_id is None:
            raise Problem("unauthorized", "the key is malformed", expected="rk_<id>_<secret>_<checksum>")
        known = self._known.get(key_id)
        if known is None or time.monotonic() - known.looked_up > _FRESH_SECONDS:
            known = await self._look_up(key_id, known)
        if known is None or not matches(text, known.hash):
            raise Problem("unauthorized", "the key is unknown or revoked")
        if known.expires_at is not None and known.expires_at <= time.time():
            raise Problem("unauthorized", "the key has expired")
        return known.principal

    async def _look_up(self, key_id: str, known: _Known | None) -> _Known | None:
        query = (
            select(Key.hash, Key.scopes, Key.expires_at, Key.revoked_at, Account.id, Account.tier)
            .join(Account, Account.id == Key.account_id)
            .where(Key.id == key_id)
        )
        try:
            async with self._database.reading() as connection:
                row = (await connection.execute(query)).one_or_none()
        except DatabaseUnavailableError as error:
            if known is not None:
                return known
            raise Problem("database-unavailable", "the key cannot be looked up") from error
        if row is None or row.revoked_at is not None:
            self._known.pop(key_id, None)
            return None
        tier_name = row.tier if row.tier in self._tiers else "standard"
        principal = Principal(
            account_id=row.id,
            key_id=key_id,
            scopes=frozenset(row.scopes),
            tier_name=tier_name,
            tier=self._tiers[tier_name],
        )
        found = _Known(row.hash, principal, row.expires_at, time.monotonic())
        self._known[key_id] = found
        return found

    async def create_account(self, name: str, tier: str = "standard") -> str:
        """Create an account and return its id."""
        account_id = new_id("acct")
        async with self._database.writing() as connection:
            await connection.execute(
                insert(Account).values(id=account_id, name=name, tier=tier, created_at=time.time())
            )
        return account_id

    async def create_key(
        self, account_id: str, *, name: str, scopes: Iterable[Scope], expires_at: float | None = None
    ) -> tuple[str, str]:
        """Create a key and return its id and its text, which is not stored."""
        key = create_key()
        async with self._database.writing() as connection:
            await connection.execute(
                insert(Key).values(
                    id=key.id,
                    account_id=account_id,
                    name=name,
                    hash=key.hash,
                    scopes=sorted(scopes),
                    created_at=time.time(),
                    expires_at=expires_at,
                )
            )
        return key.id, key.text

    async def has_keys(self) -> bool:
        """Whether any key exists."""
        async with self._database.reading() as connection:
            return (await connection.execute(select(Key.id).limit(1))).first() is not None
