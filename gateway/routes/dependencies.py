"""What routes take from their request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from gateway.context import RequestContext
from gateway.services import Services


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _context(request: Request) -> RequestContext:
    context: RequestContext = request.scope["state"]["context"]
    return context


ServicesOf = Annotated[Services, Depends(_services)]
"""Services of the process."""
ContextOf = Annotated[RequestContext, Depends(_context)]
"""Context of the request."""
