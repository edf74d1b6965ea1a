"""Who sends a request, and what it may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastapi import Depends, Request

from gateway.problems import Problem
from gateway.settings import Tier


class Scope(StrEnum):
    """What a key may do."""

    SCORE = "score"
    """Score tracks."""
    JOBS = "jobs"
    """Create jobs, read and cancel them."""
    READ = "read"
    """Read models, usage, drift, experiments and live events."""
    OUTCOMES = "outcomes"
    """Send true onsets."""
    STREAM = "stream"
    """Post live events."""
    EXPERIMENTS = "experiments"
    """Start, end and delete experiments of the account."""
    ADMIN = "admin"
    """Manage the accounts and keys of all accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The authenticated sender of a request."""

    account_id: str
    key_id: str
    """Id of the key, or the subject of a token."""
    scopes: frozenset[str]
    tier_name: str
    tier: Tier


def require(scope: Scope) -> Any:
    """Return a dependency of a route that passes its principal, who must have the scope.

    Example:
        async def list_jobs(principal: Annotated[Principal, require(Scope.JOBS)]) -> ...:
    """
    return Depends(_checked(scope))


def _checked(scope: Scope) -> Callable[[Request], Awaitable[Principal]]:
    async def principal_of(request: Request) -> Principal:
        principal: Principal = request.scope["state"]["principal"]
        check_scope(principal, scope)
        return principal

    return principal_of


def check_scope(principal: Principal, scope: Scope) -> None:
    """Check that a principal has a scope.

    Raises:
        Problem: it lacks the scope.
    """
    if scope not in principal.scopes:
        raise Problem(
            "forbidden",
            f"the key lacks the scope {scope}",
            where="Authorization",
            expected=f"a key with the scope {scope}",
            got=f"scopes {', '.join(sorted(principal.scopes)) or 'none'}",
            fix="ask an administrator for a key with the scope: POST /v1/keys",
        )
