"""Routes of the KServe protocol, version 2, for tritonclient and perf_analyzer."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.problems import Problem
from gateway.scoring.kserve import HEADER_LENGTH, MODELS, decode
from gateway.scoring.kserve_answer import encode
from reentry import __version__
from reentry.schema import ENSEMBLE, REENTRY_SCAN, REENTRY_STREAM, Model

router = APIRouter(prefix="/v2", tags=["kserve"])


@router.get("")
async def server() -> dict[str, Any]:
    """x"""
    return {"name": "reentry gateway", "version": __version__, "extensions": ["binary_tensor_data", "model_configuration"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    s = request.app.state.services
    return {"ready": (await s.models.get(ENSEMBLE)).ready}


def _m(name: str) -> Model:
    if name not in MODELS:
        raise Problem("not-found", "unknown model", where="path", got=name)
    return MODELS[name]

@router.get("/models/{name}")
async def metadata(name: str, request: Request) -> dict[str, Any]:
    return (await request.app.state.services.models.get(_m(name))).metadata

@router.get("/models/{name}/config")
async def config(name: str, request: Request) -> dict[str, Any]:
    return (await request.app.state.services.models.get(_m(name))).config

@router.get("/models/{name}/ready")
async def mready(name: str, request: Request) -> dict[str, Any]:
    return {"ready": (await request.app.state.services.models.get(_m(name))).ready}

@router.post("/models/{name}/infer")
async def infer(name: str, request: Request) -> Response:
    s = request.app.state.services
    m = _m(name)
    body = await request.body()
    r = decode(body, request.headers.get(HEADER_LENGTH), m, max_batch=await s.models.max_batch(m))
    answer = await s.triton.infer(m.name, r.inputs)
    headers, content = encode(r, answer)
    return Response(content, 200, headers)
