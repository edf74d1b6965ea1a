"""Accounts and their keys. The scope `admin` manages those of all accounts."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.accounts.directory import AccountEntry, KeyEntry
from gateway.accounts.principal import Principal, Scope, require
from gateway.problems import answers
from gateway.routes.support.dependencies import ServicesOf, no_idempotency
from gateway.routes.support.pages import Cursor, Limit

router = APIRouter(
    tags=["keys"],
    responses=answers("unauthorized", "forbidden", "invalid-value", "rate-limited"),
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, StringConstraints(max_length=100, pattern=r"^[0-9A-Za-z_]*$")]
KeyId = Annotated[Id, Path(description="Id of the key, which is its second part.")]
Admin = Annotated[Principal, require(Scope.ADMIN)]

_ACCOUNT: Final[dict[str, Any]] = {
    "id": "acct_01m8qeb49dt47eav65rkdqvbzv",
    "name": "western range",
    "tier": "standard",
    "created_at": 1796083126.5,
}
_KEY: Final[dict[str, Any]] = {
    "id": "4f0q1b7xk2ma",
    "account_id": _ACCOUNT["id"],
    "account": _ACCOUNT["name"],
    "name": "scorer of site 2",
    "scopes": ["read", "score"],
    "created_at": 1796083126.5,
    "expires_at": None,
    "revoked_at": None,
}


class NewAccount(BaseModel):
    """An account to create."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "western range"}})

    name: Name = Field(description="Name, which no other account has.")
    tier: str = Field("standard", max_length=100, description="Tier of its limits.")


class AccountAnswer(BaseModel):
    """An account."""

    model_config = ConfigDict(json_schema_extra={"example": _ACCOUNT})

    id: str
    name: str
    tier: str
    created_at: float = Field(description="Unix time, s.")


class AccountPage(BaseModel):
    """A page of the accounts."""

    model_config = ConfigDict(json_schema_extra={"example": {"accounts": [_ACCOUNT], "next": None}})

    accounts: list[AccountAnswer]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class NewKey(BaseModel):
    """A key to create."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"name": "scorer of site 2", "scopes": ["score", "read"], "expires_at": None}},
    )

    name: Name = Field(description="Purpose of the key.")
    scopes: list[Scope] = Field(min_length=1, max_length=20, description="What the key may do.")
    account_id: Id | None = Field(None, description="Account of the key; by default the one of the request.")
    expires_at: float | None = Field(
        None,
        ge=0,
        le=1e11,
        allow_inf_nan=False,
        strict=True,
        description="Unix time after which the key is refused, s.",
    )


class KeyAnswer(BaseModel):
    """A key without its secret."""

    model_config = ConfigDict(json_schema_extra={"example": _KEY})

    id: str = Field(description="Id, which is the second part of the key itself.")
    account_id: str
    account: str = Field(description="Name of the account.")
    name: str
    scopes: list[str]
    created_at: float = Field(description="Unix time, s.")
    expires_at: float | None = Field(description="Unix time, s; null if the key does not expire.")
    revoked_at: float | None = Field(description="Unix time, s; null if the key is not revoked.")


class CreatedKey(KeyAnswer):
    """A new key with its text, which no later answer contains."""

    model_config = ConfigDict(
        json_schema_extra={"example": _KEY | {"key": "rk_4f0q1b7xk2ma_<43 characters>_<6 characters>"}}
    )

    key: str = Field(description="The key itself. It is not stored and cannot be shown again.")


class KeyPage(BaseModel):
    """A page of keys."""

    model_config = ConfigDict(json_schema_extra={"example": {"keys": [_KEY], "next": None}})

    keys: list[KeyAnswer]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


@router.post("/accounts", status_code=201, summary="Create an account", responses=answers("conflict"))
async def create_account(new: NewAccount, services: ServicesOf, _admin: Admin) -> AccountAnswer:
    """Create an account without keys. Create a key for it with `POST /v1/keys` and its `account_id`."""
    account_id = await services.directory.create_account(new.name, new.tier)
    return _account(await services.directory.account(account_id))


@router.get("/accounts", summary="List the accounts")
async def list_accounts(services: ServicesOf, _admin: Admin, limit: Limit = 100, cursor: Cursor = None) -> AccountPage:
    """List the accounts in the order of their creation."""
    entries, following = await services.directory.accounts(limit=limit, cursor=cursor)
    return AccountPage(accounts=[_account(entry) for entry in entries], next=following)


@router.post(
    "/keys",
    status_code=201,
    summary="Create a key",
    responses=answers("invalid-request", "not-found"),
    dependencies=[Depends(no_idempotency("find the key with GET /v1/keys and revoke it"))],
)
async def create_key(new: NewKey, services: ServicesOf, admin: Admin, response: Response) -> CreatedKey:
    """Create a key. The answer is the only one with its text, and takes no `Idempotency-Key`, which would store it."""
    key_id, text = await services.directory.create_key(
        new.account_id or admin.account_id, name=new.name, scopes=new.scopes, expires_at=new.expires_at
    )
    response.headers["cache-control"] = "no-store"
    return CreatedKey(key=text, **_fields(await services.directory.key(key_id)))


@router.get("/keys", summary="List keys")
async def list_keys(
    services: ServicesOf,
    _admin: Admin,
    account_id: Annotated[Id | None, Query(description="Account whose keys are listed; by default all.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> KeyPage:
    """List keys, the newest first, revoked and expired ones included."""
    entries, following = await services.directory.keys(account_id, limit=limit, cursor=cursor)
    return KeyPage(keys=[KeyAnswer(**_fields(entry)) for entry in entries], next=following)


@router.get("/keys/{key_id}", summary="Show a key", responses=answers("not-found"))
async def show_key(key_id: KeyId, services: ServicesOf, _admin: Admin) -> KeyAnswer:
    """Show a key without its secret."""
    return KeyAnswer(**_fields(await services.directory.key(key_id)))


@router.delete("/keys/{key_id}", summary="Revoke a key", responses=answers("not-found"))
async def revoke_key(key_id: KeyId, services: ServicesOf, _admin: Admin) -> KeyAnswer:
    """Revoke a key. Every process refuses it within about a second. A repetition changes nothing."""
    entry = await services.directory.revoke(key_id)
    services.authentication.forget_key(key_id)
    return KeyAnswer(**_fields(entry))


def _account(entry: AccountEntry) -> AccountAnswer:
    return AccountAnswer(id=entry.id, name=entry.name, tier=entry.tier, created_at=entry.created_at)


def _fields(entry: KeyEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in KeyAnswer.model_fields}
