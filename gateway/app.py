"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from gateway.kserve.requests import MODELS
from gateway.middleware.access import Access
from gateway.middleware.bodies import Bodies
from gateway.middleware.direct import Direct, DirectRoute, problem_of, response_of
from gateway.middleware.idempotency import Idempotency
from gateway.middleware.requests import Requests
from gateway.openapi import document
from gateway.problems import Problem
from gateway.routes import (
    drift,
    events,
    experiments,
    health,
    job_results,
    jobs,
    keys,
    kserve,
    models,
    outcomes,
    tracks,
    usage,
    webhooks,
)
from gateway.routes.page import page_routes
from gateway.services import Services
from gateway.settings import GatewaySettings
from reentry import __version__
from reentry.errors import ReentryError

_ROUTERS: Final[tuple[APIRouter, ...]] = (
    jobs.router,
    job_results.router,
    webhooks.router,
    models.router,
    events.router,
    outcomes.router,
    experiments.router,
    drift.router,
    usage.router,
    keys.router,
)
"""Routers of the resources, which are served under /v1 and under /api/v1."""
BODIES_AT_ONCE: Final = 4
"""Number of the largest bodies that may be in memory at once."""
_CODES: Final = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large"}


def create_app(settings: GatewaySettings) -> FastAPI:
    """Return the application. Its services are in `app.state.services` and are opened by its lifespan."""
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with services.open():
            yield

    app = FastAPI(
        title="reentry gateway",
        version=__version__,
        description="Scores missile tracks through Triton, and marks the reentry phase.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # its page loads scripts from another server
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `gateway.traces` and `gateway.metrics` do it
    )
    app.state.services = services
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    app.include_router(tracks.router, prefix="/v1")
    app.include_router(kserve.router)
    app.include_router(tracks.router, prefix="/api/v1", include_in_schema=False)
    app.include_router(health.router)
    app.include_router(health.router, prefix="/api/v1", include_in_schema=False)
    for prefix in ("/v1", "/api/v1"):
        for router in _ROUTERS:
            app.include_router(router, prefix=prefix, include_in_schema=prefix == "/v1")
    app.router.routes.extend(page_routes())
    app.add_exception_handler(RequestValidationError, _invalid_value)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(ReentryError, _user_error)
    # The last one added is the outermost.
    app.add_middleware(Direct, routes=_direct_routes())
    app.add_middleware(Bodies, most_held=BODIES_AT_ONCE * settings.largest_body)
    app.add_middleware(Idempotency, services=services)
    app.add_middleware(Access, services=services)
    app.add_middleware(Requests)
    return app


def _direct_routes() -> dict[str, DirectRoute]:
    """Return the routes that score by their paths. FastAPI has them, too, for its document."""
    score = DirectRoute("/tracks:score", tracks.score_tracks)
    infer = {
        f"/v2/models/{name}/infer": DirectRoute("/v2/models/{name}/infer", partial(kserve.infer, name))
        for name in MODELS
    }
    return {"/v1/tracks:score": score, "/api/v1/tracks:score": score, **infer}


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return response_of(request, error)


async def _invalid_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"where": ".".join(map(str, fault["loc"])), "problem": fault["msg"], "got": repr(fault.get("input"))[:200]}
        for fault in error.errors()
    ]
    return response_of(request, Problem("invalid-value", f"{len(faults)} invalid values", faults=faults))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid-request")
    # FastAPI gives the reason for which it cannot read a body; the other reasons only repeat the status.
    detail = error.detail if code == "invalid-request" else f"{request.method} {request.url.path}"
    headers = {"allow": ", ".join(_methods(request))} if code == "method-not-allowed" else error.headers
    return response_of(request, Problem(code, detail, headers=headers))


def _methods(request: Request) -> list[str]:
    """Return the methods of all routes with the path of a request. The router names those of the first one alone."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path_regex.match(request.scope["path"]):
            found |= route.methods or {"GET", "HEAD"}  # the files of the page
    return sorted(found)


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ReentryError)
    return response_of(request, problem_of(error))
