"""Outermost middleware: request id, span, log line, metrics, and problems in place of exceptions."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import Any, Final

import structlog
from opentelemetry.trace import Span
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.context import CURRENT, RequestContext
from gateway.database.engine import DatabaseUnavailableError
from gateway.ids import new_id
from gateway.problems import MEDIA_TYPE, Problem
from gateway.traces import request_ended, request_span

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_log = structlog.get_logger(__name__)


class Requests:
    """Middleware around all routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else new_id("req")
        context = RequestContext(request_id=request_id)
        scope.setdefault("state", {})["context"] = context
        with request_span(scope, request_id) as span:
            await self._answer(context, span, scope, receive, send)

    async def _answer(self, context: RequestContext, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        token = CURRENT.set(context)
        status = 0
        begun = time.perf_counter()
        metrics.IN_FLIGHT.inc()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = {"x-request-id": context.request_id, **context.headers}
                message["headers"] = [*message.get("headers", ()), *encoded(more)]
            await send(message)

        try:
            try:
                await self._app(scope, receive, send_with_headers)
            except Problem as problem:
                if status:
                    raise
                await answer_problem(problem, scope, send_with_headers)
            except ClientDisconnect:
                pass  # nobody reads an answer
            except DatabaseUnavailableError:
                if status:
                    raise
                away = Problem("database-unavailable", "the database does not answer")
                await answer_problem(away, scope, send_with_headers)
            except Exception:
                _log.exception("request failed", path=scope["path"])
                if status:
                    raise
                await answer_problem(Problem("internal", "the request failed"), scope, send_with_headers)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", context.route)
            metrics.IN_FLIGHT.dec()
            request_ended(span, scope["method"], route, status)
            metrics.REQUESTS.labels(route, scope["method"], status or 499).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(seconds)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR or (
                context.logged and not route.startswith(("/health", "/api/v1/health"))
            ):
                _log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status or 499,
                    seconds=round(seconds, 6),
                    **context.log,
                )
            CURRENT.reset(token)


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of ASGI."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def answer_problem(problem: Problem, scope: Scope, send: Send) -> None:
    """Send a problem as the answer to a request."""
    context: RequestContext | None = scope.get("state", {}).get("context")
    body = problem.body(request_id=context.request_id if context else "", instance=scope["path"])
    headers: dict[str, Any] = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": body})
