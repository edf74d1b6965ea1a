"""The secret with which the webhooks of an account are signed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Principal, Scope, require
from gateway.problems import answers
from gateway.routes.support.dependencies import ServicesOf, no_idempotency

router = APIRouter(
    prefix="/webhook-secret",
    tags=["jobs"],
    responses=answers("unauthorized", "forbidden", "rate-limited", "database-unavailable"),
)

Sender = Annotated[Principal, require(Scope.JOBS)]


class SecretState(BaseModel):
    """Whether the account has a secret."""

    model_config = ConfigDict(json_schema_extra={"example": {"created_at": 1796083126.5}})

    created_at: float | None = Field(description="Unix time of its creation, s; null if there is none.")


class NewSecret(BaseModel):
    """A new secret. No later answer contains it."""

    model_config = ConfigDict(json_schema_extra={"example": {"secret": "whsec_<44 characters>"}})

    secret: str = Field(description="Secret for the library standardwebhooks.")


@router.get("", summary="Show whether a webhook secret exists")
async def show_secret(services: ServicesOf, sender: Sender) -> SecretState:
    """Show when the secret was created. The secret itself is shown only when it is created."""
    return SecretState(created_at=await services.jobs.secrets.created_at(sender.account_id))


@router.post(
    "",
    status_code=201,
    summary="Create a webhook secret",
    responses=answers("invalid-request"),
    dependencies=[Depends(no_idempotency("create another secret, which replaces the lost one"))],
)
async def create_secret(services: ServicesOf, sender: Sender, response: Response) -> NewSecret:
    """Create a secret, or replace it. Messages that wait are signed with the new one.

    The answer is the only one with its text, so this route takes no `Idempotency-Key`, which would store it.
    """
    response.headers["cache-control"] = "no-store"
    return NewSecret(secret=await services.jobs.secrets.rotate(sender.account_id))
