"""Routes of the KServe protocol, version 2, for tritonclient and perf_analyzer."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from gateway.accounts.principal import Principal, Scope, require
from gateway.kserve.answers import encode
from gateway.kserve.log_rows import rows_of
from gateway.kserve.models import ServedModel
from gateway.kserve.requests import HEADER_LENGTH, MODELS, decode
from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import ServicesOf, parts_of
from gateway.routes.support.presence import while_connected
from gateway.routes.support.request_body import read_request_body
from gateway.services import Services
from reentry import __version__
from reentry.schema import ENSEMBLE, LARGEST_REQUEST, REENTRY_SCAN, REENTRY_STREAM, Model

router = APIRouter(prefix="/v2", tags=["kserve"])

_LIVE: Final = (REENTRY_STREAM.name, REENTRY_SCAN.name)
_EXTENSIONS: Final = ("binary_tensor_data", "model_configuration")

Scorer = Annotated[Principal, require(Scope.SCORE)]
Name = Annotated[str, Path(description="Name of a model: " + ", ".join(MODELS) + ".", examples=[ENSEMBLE.name])]
Version = Annotated[str, Path(description="Version of the model in the server, which is 1.", examples=["1"])]

_EXAMPLE: Final = {
    "id": "a",
    "inputs": [
        {"name": "track_id", "datatype": "INT64", "shape": [1, 1], "data": [7]},
        {"name": "track_length", "datatype": "INT32", "shape": [1, 1], "data": [2]},
        {
            "name": "measurements",
            "datatype": "FP64",
            "shape": [1, 2, 6],
            "data": [1.7e9, 40.0, 120.0, 9e4, 1.0, 0, 1700000001.0, 40.0, 120.01, 8.9e4, 1.1, 0],
        },
    ],
    "outputs": [{"name": "onset_timestamp"}],
}
_ANSWER: Final = {
    "id": "a",
    "model_name": "reentry",
    "model_version": "1",
    "outputs": [{"name": "onset_timestamp", "datatype": "FP64", "shape": [1, 1], "data": [-1.0]}],
}
_SCHEMA: Final = {"type": "object"}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": f"JSON. With the header {HEADER_LENGTH} binary tensors follow the JSON.",
        "content": {
            "application/json": {"schema": _SCHEMA, "example": _EXAMPLE},
            "application/octet-stream": _BINARY,
        },
    }
}


_OF_MODEL: Final = answers("unauthorized", "forbidden", "not-found", "model-unavailable")
_OF_INFER: Final = answers(
    *("invalid-request", "unauthorized", "forbidden", "not-found", "body-too-large", "unsupported-media-type"),
    *("rate-limited", "invalid-answer", "overloaded", "model-unavailable"),
)
_OF_INFER[HTTPStatus.OK.value] = {
    "description": f"The outputs. Binary ones follow the JSON, whose length is in the header {HEADER_LENGTH}.",
    "content": {
        "application/json": {"schema": _SCHEMA, "example": _ANSWER},
        "application/octet-stream": _BINARY,
    },
}


def _shown(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a successful answer."""
    return {HTTPStatus.OK.value: {"content": {"application/json": {"example": example}}}}


_INPUT: Final = {"name": "track_length", "datatype": "INT32", "shape": [-1, 1]}
_OUTPUT: Final = {"name": "onset_timestamp", "datatype": "FP64", "shape": [-1, 1]}
_METADATA: Final = {
    "name": "reentry",
    "versions": ["1"],
    "platform": "ensemble",
    "inputs": [_INPUT],
    "outputs": [_OUTPUT],
}
_CONFIG: Final = {
    "name": "reentry",
    "max_batch_size": 64,
    "input": [{"name": "track_length", "data_type": "TYPE_INT32", "dims": [1]}],
    "output": [{"name": "onset_timestamp", "data_type": "TYPE_FP64", "dims": [1]}],
}


@router.get("", summary="Describe the server", responses=_shown({"name": "reentry gateway", "version": "0.1.0"}))
async def show_server() -> dict[str, Any]:
    """Name, version and the extensions of the protocol."""
    return {"name": "reentry gateway", "version": __version__, "extensions": list(_EXTENSIONS)}


@router.get("/health/live", summary="Whether the gateway runs", responses=_shown({"live": True}))
async def live() -> dict[str, bool]:
    """Answer as long as the process runs."""
    return {"live": True}


@router.get(
    "/health/ready",
    summary="Whether the ensemble can score",
    responses=_shown({"ready": True}) | answers("model-unavailable", "shutting-down"),
)
async def ready(services: ServicesOf) -> dict[str, bool]:
    """Answer with 200 if Triton answers, the ensemble is loaded, and the gateway does not shut down."""
    if services.stopping.is_set():
        raise Problem("shutting-down", "the process finishes its requests and stops")
    return await _readiness(services, ENSEMBLE)


@router.get("/models/{name}", summary="Describe a model", responses=_OF_MODEL | _shown(_METADATA))
async def show_model(name: Name, services: ServicesOf) -> dict[str, Any]:
    """Versions, inputs and outputs."""
    return (await services.served_models.get(_model(name))).metadata


@router.get(
    "/models/{name}/versions/{version}",
    summary="Describe a version of a model",
    responses=_OF_MODEL | _shown(_METADATA),
)
async def show_version(name: Name, version: Version, services: ServicesOf) -> dict[str, Any]:
    """Versions, inputs and outputs."""
    return (await _served(services, name, version)).metadata


@router.get("/models/{name}/ready", summary="Whether a model is loaded", responses=_OF_MODEL | _shown({"ready": True}))
async def model_ready(name: Name, services: ServicesOf) -> dict[str, bool]:
    """Answer with 200 if the model is loaded."""
    return await _readiness(services, _model(name))


@router.get(
    "/models/{name}/versions/{version}/ready",
    summary="Whether a version is loaded",
    responses=_OF_MODEL | _shown({"ready": True}),
)
async def version_ready(name: Name, version: Version, services: ServicesOf) -> dict[str, bool]:
    """Answer with 200 if the version is loaded."""
    await _served(services, name, version)
    return await _readiness(services, _model(name))


@router.get("/models/{name}/config", summary="Show the configuration of a model", responses=_OF_MODEL | _shown(_CONFIG))
async def show_config(name: Name, services: ServicesOf) -> dict[str, Any]:
    """Largest batch, inputs, outputs and parameters. The parts of an ensemble are left out."""
    return (await services.served_models.get(_model(name))).config


@router.get(
    "/models/{name}/versions/{version}/config",
    summary="Show the configuration of a version",
    responses=_OF_MODEL | _shown(_CONFIG),
)
async def show_version_config(name: Name, version: Version, services: ServicesOf) -> dict[str, Any]:
    """Largest batch, inputs, outputs and parameters. The parts of an ensemble are left out."""
    return (await _served(services, name, version)).config


@router.post("/models/{name}/infer", summary="Score tracks", responses=_OF_INFER, openapi_extra=_REQUEST_BODY)
async def infer(name: Name, request: Request) -> Response:
    """Score tracks through a model, with binary tensors or JSON."""
    return await _infer(_model(name), request)


@router.post(
    "/models/{name}/versions/{version}/infer",
    summary="Score tracks with a version",
    responses=_OF_INFER,
    openapi_extra=_REQUEST_BODY,
)
async def infer_version(name: Name, version: Version, request: Request, services: ServicesOf) -> Response:
    """Score tracks through a version of a model, with binary tensors or JSON."""
    await _served(services, name, version)
    return await _infer(_model(name), request)


async def _infer(model: Model, request: Request) -> Response:
    begun = time.perf_counter()
    services, principal, context = parts_of(request, Scope.SCORE)
    body = await read_request_body(request, services.settings.largest_body)
    max_batch = services.triton.largest_batch.get(model.name, LARGEST_REQUEST)
    asked = decode(body, request.headers.get(HEADER_LENGTH), model, max_batch=max_batch)
    await services.limits.charge_steps(principal, asked.steps, context)
    answer = await while_connected(request, services.kserve_calls.infer(asked))
    headers, content = encode(asked, answer)
    seconds = time.perf_counter() - begun
    services.log.record(rows_of(asked, answer, principal, context.request_id, seconds=seconds))
    return Response(content, headers=headers)


def _model(name: str) -> Model:
    """Return a model of the protocol."""
    if (model := MODELS.get(name)) is not None:
        return model
    if name in _LIVE:
        raise Problem(
            "not-found",
            "models of live tracks are not reachable over HTTP",
            where=name,
            fix="call Triton over gRPC inside the cluster (docs/live-models.md), or run `reentry stream` there",
        )
    raise Problem("not-found", "unknown model", where="path", expected=", ".join(MODELS), got=repr(name[:100]))


async def _served(services: Services, name: str, version: str) -> ServedModel:
    """Return a model that has the version of the path."""
    served = await services.served_models.get(_model(name))
    if version != served.version:
        raise Problem("not-found", "unknown version", where=name, expected=served.version, got=repr(version[:100]))
    return served


async def _readiness(services: Services, model: Model) -> dict[str, bool]:
    served = await services.served_models.get(model)
    if not served.ready:
        raise Problem("model-unavailable", "the model is not ready", where=model.name)
    return {"ready": True}
