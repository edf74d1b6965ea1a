"""Authentication of keys and tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select

from gateway.accounts.keys import hash_of, id_of, matches
from gateway.accounts.known import Known
from gateway.accounts.oidc import Tokens
from gateway.accounts.principal import Principal
from gateway.database.engine import Database, DatabaseUnavailableError
from gateway.database.tables import Account, Key
from gateway.problems import Problem
from gateway.settings import GatewaySettings

_NO_KEY: Final = hash_of("no key has this hash")
"""Hash that an unknown key is compared with, so that it takes as long as a known one."""


@dataclass(frozen=True, slots=True)
class _Key:
    principal: Principal
    hash: bytes = field(repr=False)
    expires_at: float | None


class Authentication:
    """Finds the principal of a request."""

    def __init__(self, database: Database, settings: GatewaySettings) -> None:
        self._database = database
        self._tiers = settings.tiers
        self._keys: Known[_Key] = Known(self._look_up_key)
        self._tier_names: Known[str] = Known(self._look_up_tier_name)
        self.tokens = Tokens(settings) if settings.oidc_issuer else None
        """Tokens of an identity provider, if one is configured."""

    async def authenticate(self, credentials: str) -> Principal:
        """Return the principal of a key or a token.

        Raises:
            Problem: the key or token is invalid, expired or revoked, or cannot be checked at the moment.
        """
        if self.tokens is None or credentials.startswith("rk_"):
            return await self._of_key(credentials)
        return await self._of_token(self.tokens, credentials)

    def forget_key(self, key_id: str) -> None:
        """Look a key up again, because it was changed."""
        self._keys.forget(key_id)

    async def _of_key(self, text: str) -> Principal:
        key_id = id_of(text)
        if key_id is None:
            raise Problem("unauthorized", "the key is malformed", expected="rk_<id>_<secret>_<checksum>")
        try:
            key = await self._keys.get(key_id)
        except DatabaseUnavailableError as error:
            raise Problem("database-unavailable", "the key cannot be looked up") from error
        is_valid = matches(text, _NO_KEY if key is None else key.hash)
        if key is None or not is_valid:
            raise Problem("unauthorized", "the key is unknown or revoked")
        if key.expires_at is not None and key.expires_at <= time.time():
            raise Problem("unauthorized", "the key has expired")
        return key.principal

    async def _of_token(self, tokens: Tokens, text: str) -> Principal:
        person = await tokens.check(text)
        try:
            tier_name = await self._tier_names.get(person.account_id)
        except DatabaseUnavailableError as error:
            raise Problem("database-unavailable", "the account of the token cannot be looked up") from error
        if tier_name is None:
            raise Problem("unauthorized", "the account of the token does not exist", where="claim reentry_account")
        return self._principal(person.account_id, person.subject, person.scopes, tier_name)

    def _principal(self, account_id: str, key_id: str, scopes: frozenset[str], tier_name: str) -> Principal:
        tier_name = tier_name if tier_name in self._tiers else "standard"
        return Principal(
            account_id=account_id, key_id=key_id, scopes=scopes, tier_name=tier_name, tier=self._tiers[tier_name]
        )

    async def _look_up_key(self, key_id: str) -> _Key | None:
        query = (
            select(Key.hash, Key.scopes, Key.expires_at, Account.id, Account.tier)
            .join(Account, Account.id == Key.account_id)
            .where(Key.id == key_id, Key.revoked_at.is_(None))
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return _Key(self._principal(row.id, key_id, frozenset(row.scopes), row.tier), row.hash, row.expires_at)

    async def _look_up_tier_name(self, account_id: str) -> str | None:
        async with self._database.reading() as connection:
            tier: str | None = await connection.scalar(select(Account.tier).where(Account.id == account_id))
        return tier
