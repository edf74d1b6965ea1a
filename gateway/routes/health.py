"""Health of the process, without a key."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.problems import Problem
from gateway.routes.dependencies import ServicesOf

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, bool]:
    """Answer as long as the process runs."""
    return {"live": True}


@router.get("/ready")
async def ready(services: ServicesOf) -> dict[str, bool]:
    """Answer with 200 if the process takes requests; it is not ready while it shuts down."""
    if services.stopping.is_set():
        raise Problem("shutting-down", "the process finishes its requests and stops")
    return {"ready": True}
