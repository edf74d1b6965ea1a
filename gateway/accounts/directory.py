"""Directory of accounts and keys: creation, lists, revocation."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.accounts.keys import create_key
from gateway.accounts.principal import Scope
from gateway.database.engine import Database
from gateway.database.pages import read_page
from gateway.database.tables import Account, Key
from gateway.ids import new_id
from gateway.problems import Problem
from gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """An account."""

    id: str
    name: str
    tier: str
    created_at: float


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key, without its secret."""

    id: str
    account_id: str
    account: str
    """Name of the account."""
    name: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class Directory:
    """Accounts and keys in the database."""

    def __init__(self, database: Database, settings: GatewaySettings) -> None:
        self._database = database
        self._tiers = settings.tiers

    async def create_account(self, name: str, tier: str = "standard") -> str:
        """Create an account and return its id.

        Raises:
            Problem: the tier does not exist, or an account has this name.
        """
        if tier not in self._tiers:
            raise Problem(
                "invalid-value", "the tier does not exist", where="tier", expected=" or ".join(self._tiers), got=tier
            )
        account_id = new_id("acct")
        try:
            async with self._database.writing() as connection:
                await connection.execute(
                    insert(Account).values(id=account_id, name=name, tier=tier, created_at=time.time())
                )
        except IntegrityError as error:
            raise Problem("conflict", "an account has this name", where="name", got=name) from error
        return account_id

    async def account(self, id_or_name: str) -> AccountEntry:
        """Return an account.

        Raises:
            Problem: there is no such account.
        """
        query = _accounts().where((Account.id == id_or_name) | (Account.name == id_or_name))
        async with self._database.reading() as connection:
            # A name could be the id of another account; the id wins.
            rows = (await connection.execute(query.order_by(Account.id != id_or_name))).all()
        if not rows:
            raise Problem("not-found", "no such account", where="account", got=id_or_name)
        return AccountEntry(*rows[0])

    async def accounts(self, *, limit: int, cursor: str | None = None) -> tuple[list[AccountEntry], str | None]:
        """Return a page of the accounts in order of their creation, and the cursor of the next page."""
        async with self._database.reading() as connection:
            rows, following = await read_page(connection, _accounts(), [Account.id], limit=limit, cursor=cursor)
        return [AccountEntry(*row) for row in rows], following

    async def create_key(
        self, account_id: str, *, name: str, scopes: Iterable[Scope], expires_at: float | None = None
    ) -> tuple[str, str]:
        """Create a key and return its id and its text, which is not stored.

        Raises:
            Problem: there is no such account, or the time of expiry has passed.
        """
        if expires_at is not None and expires_at <= time.time():
            raise Problem("invalid-value", "the time of expiry has passed", where="expires_at", got=str(expires_at))
        key = create_key()
        values = {"id": key.id, "account_id": account_id, "name": name, "hash": key.hash, "scopes": sorted(set(scopes))}
        try:
            async with self._database.writing() as connection:
                await connection.execute(insert(Key).values(created_at=time.time(), expires_at=expires_at, **values))
        except IntegrityError as error:
            raise Problem("not-found", "no such account", where="account_id", got=account_id) from error
        return key.id, key.text

    async def key(self, key_id: str) -> KeyEntry:
        """Return a key.

        Raises:
            Problem: there is no such key.
        """
        async with self._database.reading() as connection:
            row = (await connection.execute(_keys().where(Key.id == key_id))).one_or_none()
        if row is None:
            raise Problem("not-found", "no such key", where="key", got=key_id)
        return KeyEntry(*row)

    async def keys(
        self, account_id: str | None = None, *, limit: int, cursor: str | None = None
    ) -> tuple[list[KeyEntry], str | None]:
        """Return a page of the keys of one or all accounts, the newest first, and the cursor of the next page."""
        query = _keys() if account_id is None else _keys().where(Key.account_id == account_id)
        columns = [Key.created_at, Key.id]
        async with self._database.reading() as connection:
            rows, following = await read_page(connection, query, columns, limit=limit, cursor=cursor, newest_first=True)
        return [KeyEntry(*row) for row in rows], following

    async def revoke(self, key_id: str) -> KeyEntry:
        """Revoke a key, in every process within about a second. A key that is revoked already stays so.

        Raises:
            Problem: there is no such key.
        """
        async with self._database.writing() as connection:
            revoked_at = func.coalesce(Key.revoked_at, time.time())
            await connection.execute(update(Key).where(Key.id == key_id).values(revoked_at=revoked_at))
        return await self.key(key_id)

    async def has_keys(self) -> bool:
        """Whether any key exists."""
        async with self._database.reading() as connection:
            return (await connection.execute(select(Key.id).limit(1))).first() is not None


def _accounts() -> Select[str, str, str, float]:
    return select(Account.id, Account.name, Account.tier, Account.created_at)


def _keys() -> Select[str, str, str, str, list[str], float, float | None, float | None]:
    return select(
        Key.id,
        Key.account_id,
        Account.name.label("account"),
        Key.name,
        Key.scopes,
        Key.created_at,
        Key.expires_at,
        Key.revoked_at,
    ).join(Account, Account.id == Key.account_id)
