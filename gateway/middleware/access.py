"""Authentication and request limit of every request, except to the open paths."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import metrics
from gateway.problems import Problem
from gateway.services import Services

_HEALTH: Final = ("/health/live", "/health/ready")
_OPEN: Final = frozenset({"/", "/openapi.json", *_HEALTH, *(f"/api/v1{path}" for path in _HEALTH)})
"""Paths that require no key, with those of the live page's files. Every other path does, whether a route has it or not:
a new route, and a path that is written in another way, cannot be reached without a key."""
_OPEN_FILES: Final = "/assets/"


class Access:
    """Middleware that authenticates the sender of a request, and counts the request, before its body is read."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request of a known sender."""
        if scope["type"] == "http" and not is_open(scope["path"]):
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


def is_open(path: str) -> bool:
    """Whether a path requires no key."""
    return path in _OPEN or path.startswith(_OPEN_FILES)


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
