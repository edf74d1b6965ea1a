"""Requests to score tracks that prefer a job: `Prefer: respond-async` (RFC 7240)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi import Request, Response

from gateway.accounts.principal import Principal, Scope, check_scope
from gateway.context import RequestContext
from gateway.jobs.answers import accepted
from gateway.problems import Problem
from gateway.routes.support.negotiation import preferred
from gateway.routes.support.request_body import read_request_body
from gateway.scoring.bodies import ARROW, JSON, arrow_stream_of_json
from gateway.services import Services
from reentry.schema import ENSEMBLE

_OF_JOBS: Final = {
    "model": (ENSEMBLE.name, "leave it out, or send the tracks without `Prefer: respond-async`"),
    "result": ("rows", "leave it out: a job has both tables, and results?file=onsets is the one with a row per track"),
}
"""The value that each query parameter must have, because a job knows no other, and what else to do."""


def prefers_job(prefer: str | None) -> bool:
    """Whether the header Prefer asks for an answer before the tracks are scored."""
    preferences = (each.partition(";")[0].strip().lower() for each in (prefer or "").split(","))
    return "respond-async" in preferences


async def score_later(
    request: Request, services: Services, principal: Principal, context: RequestContext, media_type: str
) -> Response:
    """Create a job for the tracks of a request, and answer with 202.

    Raises:
        Problem: the key lacks the scope `jobs`, without which nobody could read the results; the request asks for
            what a job cannot give; or the body is unusable.
    """
    check_scope(principal, Scope.JOBS)
    for name, (only, fix) in _OF_JOBS.items():
        if (got := request.query_params.get(name, only)) != only:
            where = f"query parameter {name}"
            raise Problem("invalid-value", f"a job has no other {name}", where=where, expected=only, got=got, fix=fix)
    preferred(request.headers.get("accept", ""), [JSON])
    content: AsyncIterator[bytes] = request.stream()
    if media_type == JSON:
        body = await read_request_body(request, services.settings.largest_body)
        content = _one(await asyncio.to_thread(arrow_stream_of_json, body))
    row = await services.jobs.create(
        principal,
        content=content,
        media_type=ARROW if media_type == JSON else media_type,
        request_id=context.request_id,
        claim=request.scope["state"].get("claim"),
        respond_async=True,
    )
    return accepted(row, respond_async=True)


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content
