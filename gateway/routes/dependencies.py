"""What routes take from their request."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Request

from gateway.accounts.principal import Principal, Scope, check_scope
from gateway.context import RequestContext
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


def parts_of(request: Request, scope: Scope) -> tuple[Services, Principal, RequestContext]:
    """Return services, principal and context of a request, for routes that must be fast.

    Raises:
        Problem: the principal lacks the scope.
    """
    state = request.scope["state"]
    principal: Principal = state["principal"]
    check_scope(principal, scope)
    return request.app.state.services, principal, state["context"]
