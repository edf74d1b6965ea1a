"""What routes take from their request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Header, Request

from gateway.accounts.principal import Principal, Scope, check_scope
from gateway.context import RequestContext
from gateway.problems import Problem
from gateway.services import Services


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _context(request: Request) -> RequestContext:
    context: RequestContext = request.scope["state"]["context"]
    return context


ServicesOf = Annotated[Services, Depends(_services)]
"""Services of the process."""
ContextOf = Annotated[RequestContext, Depends(_context)]
"""Context of the request."""

ROW_ID: Final = r"^[a-z0-9_]{1,64}$"
"""Pattern of the ids of rows, which are also the cursors of pages."""


def no_idempotency(fix: str) -> Callable[[str | None], None]:
    """Return the dependency of a route that takes no Idempotency-Key, because its answer must not be stored.

    Args:
        fix: what to do after a lost answer.
    """

    def check(idempotency_key: Annotated[str | None, Header(include_in_schema=False)] = None) -> None:
        if idempotency_key is not None:
            raise Problem(
                *(
                    "invalid-request",
                    "this route takes no Idempotency-Key, because a stored answer would contain a secret",
                ),
                where="Idempotency-Key",
                fix=f"leave the header out; after a lost answer, {fix}",
            )

    return check


def parts_of(request: Request, scope: Scope) -> tuple[Services, Principal, RequestContext]:
    """Return services, principal and context of a request, for routes that must be fast.

    Raises:
        Problem: the principal lacks the scope.
    """
    state = request.scope["state"]
    principal: Principal = state["principal"]
    check_scope(principal, scope)
    return request.app.state.services, principal, state["context"]
