"""Authentication and request limit of every request, except to the open paths."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import metrics
from gateway.problems import Problem
from gateway.services import Services

PROTECTED: Final = ("/v1/", "/v2", "/api/")
"""Prefixes of the paths that require a key. The other paths are health, documents and the live page."""
_OPEN: Final = frozenset({"/api/v1/health/live", "/api/v1/health/ready"})
"""Paths under these prefixes that require none."""


class Access:
    """Middleware that authenticates the sender of a request, and counts the request, before its body is read."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request of a known sender."""
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED) and scope["path"] not in _OPEN:
            state = scope["state"]
            try:
                principal = state["principal"] = await self._services.authentication.authenticate(credentials_of(scope))
            except Problem as problem:
                if problem.code == "unauthorized":
                    metrics.AUTH_FAILURES.labels("credentials").inc()
                    problem.headers["www-authenticate"] = 'Bearer realm="reentry"'
                raise
            await self._services.limits.check_request(principal, state["context"])
        await self._app(scope, receive, send)


def credentials_of(scope: Scope) -> str:
    """Return the key or token of a request.

    Raises:
        Problem: it has none.
    """
    key = authorization = b""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            key = value
        elif name == b"authorization":
            authorization = value
    if key:
        return str(key.decode("latin-1")).strip()
    scheme, _, credentials = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not credentials:
        raise Problem(
            "unauthorized",
            "no key was sent",
            where="Authorization",
            expected="Authorization: Bearer rk_...",
            fix="send a key; `reentry gateway keys create` creates one",
        )
    return str(credentials).strip()
