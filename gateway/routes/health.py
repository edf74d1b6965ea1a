"""Health of the process, without a key."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import ServicesOf

router = APIRouter(prefix="/health", tags=["health"])


class Live(BaseModel):
    """A process that runs."""

    model_config = ConfigDict(json_schema_extra={"example": {"live": True}})

    live: bool


class Ready(BaseModel):
    """A process that takes requests."""

    model_config = ConfigDict(json_schema_extra={"example": {"ready": True}})

    ready: bool


@router.get("/live", summary="Whether the process runs", response_model=Live)
async def live() -> Live:
    """Answer as long as the process runs."""
    return Live(live=True)


@router.get("/ready", summary="Whether the process takes requests", responses=answers("shutting-down"))
async def ready(services: ServicesOf) -> Ready:
    """Answer with 200 until the process shuts down.

    The state of Triton, Redis and the database does not matter: without them the process still answers in part, and no
    other process would do better.
    """
    if services.stopping.is_set():
        raise Problem("shutting-down", "the process finishes its requests and stops")
    return Ready(ready=True)
