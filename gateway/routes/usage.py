"""Usage of the account by hours."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Principal, Scope, require
from gateway.inference_log.usage import HOUR, SUMS, usage_of
from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import ServicesOf

router = APIRouter(tags=["usage"])

LONGEST_DAYS: Final = 366
_DAY: Final = 86_400.0

_SUMS: Final[dict[str, Any]] = {
    "requests": 12,
    "tracks": 480,
    "steps": 432_000,
    "cached": 31,
    "degraded": 0,
    "refused": 2,
}

Time = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)]


class UsageSums(BaseModel):
    """Sums of a time."""

    requests: int = Field(description="Answered requests with at least one track, and jobs with results.")
    tracks: int = Field(description="Tracks that were answered.")
    steps: int = Field(description="Steps of these tracks.")
    cached: int = Field(description="Tracks of these that were answered from the cache.")
    degraded: int = Field(description="Tracks of these that the altitude-fraction rule answered.")
    refused: int = Field(description="Tracks that were refused.")


class HourOfUsage(UsageSums):
    """Sums of one hour."""

    begins_at: float = Field(description="Unix time of the beginning of the hour, s.")


class UsageAnswer(BaseModel):
    """Usage of the account."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "since": 1796079600.0,
                "until": 1796083126.5,
                "total": _SUMS,
                "hours": [{"begins_at": 1796079600.0, **_SUMS}],
            }
        }
    )

    since: float
    until: float
    total: UsageSums
    hours: list[HourOfUsage] = Field(description="Hours with usage, in their order.")


@router.get(
    "/usage",
    summary="Show the usage",
    responses=answers("unauthorized", "forbidden", "invalid-value", "rate-limited", "database-unavailable"),
)
async def show_usage(
    services: ServicesOf,
    principal: Annotated[Principal, require(Scope.READ)],
    since: Annotated[Time, Query(description="Unix time, s; by default a day before `until`.")] = None,
    until: Annotated[Time, Query(description="Unix time, s; by default now.")] = None,
) -> UsageAnswer:
    """Sum what the account used in the hours that begin in [since, until). Requests count about a second later."""
    end = time.time() if until is None else until
    begin = end - _DAY if since is None else since
    if not 0 <= end - begin <= LONGEST_DAYS * _DAY:
        raise Problem(
            "invalid-value",
            "invalid time range",
            where="since, until",
            expected=f"since <= until, at most {LONGEST_DAYS} days apart",
            got=f"{end - begin:g} s",
        )
    rows = await usage_of(services.database, principal.account_id, begin, end)
    hours = [HourOfUsage(begins_at=row.pop("hour") * HOUR, **row) for row in rows]
    total = UsageSums(**{name: sum(getattr(hour, name) for hour in hours) for name in SUMS})
    return UsageAnswer(since=begin, until=end, total=total, hours=hours)
