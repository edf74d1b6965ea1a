"""The routes with most requests, called without FastAPI's routing, which costs each of them time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import MEDIA_TYPE, Problem
from reentry.errors import ClientError, ReentryError


class DirectRoute(NamedTuple):
    """A POST route that needs nothing but the request."""

    template: str
    """Path of the route, for metrics and traces."""
    endpoint: Callable[[Request], Awaitable[Response]]


class Direct:
    """Innermost middleware: calls a route by its exact path, and passes all other requests on."""

    def __init__(self, app: ASGIApp, routes: Mapping[str, DirectRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._routes.get(scope.get("path", ""))
        if route is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["state"]["context"].route = route.template
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Problem as problem:
            response = response_of(request, problem)
        except ReentryError as error:
            response = response_of(request, problem_of(error))
        await response(scope, receive, send)


def problem_of(error: ReentryError) -> Problem:
    """Return an error of the other packages as a problem."""
    return Problem.of_model_server(error) if isinstance(error, ClientError) else Problem.of("invalid-request", error)


def response_of(request: Request, problem: Problem) -> Response:
    """Return a problem as the answer to a request."""
    body = problem.body(request_id=request.scope["state"]["context"].request_id, instance=request.url.path)
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)
