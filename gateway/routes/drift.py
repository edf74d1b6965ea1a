"""Drift of the scored tracks from day to day."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Principal, Scope, require
from gateway.problems import answers
from gateway.routes.support.dependencies import ServicesOf

router = APIRouter(
    prefix="/drift",
    tags=["drift"],
    responses=answers("unauthorized", "forbidden", "invalid-value", "rate-limited", "database-unavailable"),
)

_QUANTITY: Final[dict[str, Any]] = {
    "quantity": "peak_altitude",
    "tracks": 3_912,
    "compared_with": "first tracks",
    "stability_index": 0.31,
    "ks_statistic": 0.22,
    "p_value": 2.1e-40,
    "is_large": True,
}
_DAY: Final[dict[str, Any]] = {"date": "2026-11-30", "tracks": 3_912, "model_version": 2, "quantities": [_QUANTITY]}


class QuantityBody(BaseModel):
    """Drift of one number per track."""

    quantity: str = Field(description="Name of the number.")
    tracks: int = Field(description="Tracks of the day that have the number.")
    compared_with: str = Field(description="What the stability index compares with: `training` or `first tracks`.")
    stability_index: float | None = Field(
        description="Population stability index: below 0.1 no change, above 0.25 a large one; null with few tracks."
    )
    ks_statistic: float | None = Field(description="Distance from the first tracks; null with few tracks.")
    p_value: float | None = Field(description="Its probability without drift, corrected for the number of quantities.")
    is_large: bool = Field(description="Whether the stability index is above 0.25.")


class DayBody(BaseModel):
    """Drift of one day."""

    date: str = Field(description="Day in UTC.")
    tracks: int
    model_version: int | None = Field(description="Version that answered most of the tracks.")
    quantities: list[QuantityBody]


class BaselineBody(BaseModel):
    """The first tracks of the account, which later days are compared with."""

    tracks: int
    until: float | None = Field(description="Unix time of the last of them, s.")


class DriftBody(BaseModel):
    """Drift of the last days."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"baseline": {"tracks": 2_000, "until": 1793404800.5}, "days": [_DAY]}}
    )

    baseline: BaselineBody
    days: list[DayBody] = Field(description="Days, the newest first.")


@router.get("", summary="Measure drift by day")
async def drift(
    services: ServicesOf,
    principal: Annotated[Principal, require(Scope.READ)],
    days: Annotated[int, Query(ge=1, le=31, description="Number of days, today included.")] = 7,
) -> DriftBody:
    """Compare the tracks of each day with the training data of the version in use, and with the first tracks."""
    baseline, found = await services.drift.of(principal.account_id, days)
    return DriftBody(
        baseline=BaselineBody(**asdict(baseline)),
        days=[
            DayBody(
                date=datetime.fromtimestamp(day.start, UTC).date().isoformat(),
                tracks=day.tracks,
                model_version=day.model_version,
                quantities=[QuantityBody(**asdict(each), is_large=each.is_large) for each in day.quantities],
            )
            for day in found
        ],
    )
