"""The models that Triton serves."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Scope, require
from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import ServicesOf
from gateway.scoring.catalogue import MODELS, CatalogueEntry
from gateway.services import Services

router = APIRouter(
    tags=["models"],
    responses=answers("unauthorized", "forbidden", "rate-limited", "model-unavailable"),
    dependencies=[require(Scope.READ)],
)

_MODEL: Final[dict[str, Any]] = {"name": "reentry", "purpose": "scores whole tracks", "ready": True, "versions": [1]}
_VERSIONS: Final[dict[str, Any]] = {"name": "reentry_lstm", "versions": [2, 3], "answering": 3}

Name = Annotated[
    str,
    Path(
        description="Name of a model: " + ", ".join(model.name for model, _ in MODELS) + ".",
        max_length=100,
        examples=["reentry_lstm"],
    ),
]


class ModelAnswer(BaseModel):
    """A model that Triton serves."""

    model_config = ConfigDict(json_schema_extra={"example": _MODEL}, from_attributes=True)

    name: str
    purpose: str
    ready: bool = Field(description="Whether Triton answers requests for it now.")
    versions: list[int] = Field(description="Versions that Triton serves.")


class ModelList(BaseModel):
    """All models that Triton serves."""

    model_config = ConfigDict(json_schema_extra={"example": {"models": [_MODEL]}}, from_attributes=True)

    models: list[ModelAnswer]


class VersionList(BaseModel):
    """Served versions of a model."""

    model_config = ConfigDict(json_schema_extra={"example": _VERSIONS})

    name: str
    versions: list[int]
    answering: int | None = Field(description="Version that answers a request; null if there is none.")


@router.get("/models", summary="List the models")
async def list_models(services: ServicesOf) -> ModelList:
    """List the models that Triton serves, with their versions."""
    entries = await services.catalogue.entries()
    return ModelList(models=[ModelAnswer.model_validate(entry) for entry in entries])


@router.get("/models/{name}", summary="Show a model", responses=answers("not-found"))
async def show_model(name: Name, services: ServicesOf) -> ModelAnswer:
    """Show one model that Triton serves."""
    return ModelAnswer.model_validate(await _entry(services, name))


@router.get("/models/{name}/versions", summary="List the versions of a model", responses=answers("not-found"))
async def list_versions(name: Name, services: ServicesOf) -> VersionList:
    """List the versions of a model that Triton serves. The largest one answers."""
    entry = await _entry(services, name)
    return VersionList(name=entry.name, versions=entry.versions, answering=max(entry.versions, default=None))


async def _entry(services: Services, name: str) -> CatalogueEntry:
    for entry in await services.catalogue.entries():
        if entry.name == name:
            return entry
    raise Problem(
        "not-found",
        "Triton serves no such model",
        where="name",
        got=name,
        expected="one of " + ", ".join(entry.name for entry in await services.catalogue.entries()),
    )
