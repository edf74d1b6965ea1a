"""True onsets, which clients send after the flights."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.accounts.principal import Principal, Scope, require
from gateway.problems import answers
from gateway.routes.support.dependencies import ROW_ID, ServicesOf
from gateway.routes.support.pages import Cursor, Limit
from reentry.schema import TIMESTAMP

router = APIRouter(
    prefix="/outcomes",
    tags=["outcomes"],
    responses=answers("unauthorized", "forbidden", "invalid-value", "rate-limited", "database-unavailable"),
)

_LARGEST_REQUEST = 10_000


class OutcomeBody(BaseModel):
    """The true onset of one track."""

    model_config = ConfigDict(extra="forbid")

    track_id: Annotated[int | None, Field(ge=-(2**63), lt=2**63, strict=True)] = Field(
        None, description="Id of the track."
    )
    answer_id: str | None = Field(
        None, pattern=ROW_ID, description="Id of an answer for the track, instead of its `track_id`."
    )
    onset_timestamp: Annotated[
        float | None, Field(ge=TIMESTAMP.low, le=TIMESTAMP.high, allow_inf_nan=False, strict=True)
    ] = Field(description="Unix time of the true onset, s; null if the flight had no reentry.")

    @model_validator(mode="after")
    def _names_one_track(self) -> OutcomeBody:
        if (self.track_id is None) == (self.answer_id is None):
            raise ValueError("give either track_id or answer_id")
        return self


class NewOutcomes(BaseModel):
    """True onsets of several tracks."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "outcomes": [
                    {"track_id": 17, "onset_timestamp": 1796083126.5},
                    {"track_id": 18, "onset_timestamp": None},
                ]
            }
        },
    )

    outcomes: list[OutcomeBody] = Field(min_length=1, max_length=_LARGEST_REQUEST)


class Fault(BaseModel):
    """An outcome that was not stored."""

    where: str = Field(examples=["outcomes.3.answer_id"])
    problem: str
    got: str


class StoredBody(BaseModel):
    """What became of the outcomes. A repeated request changes nothing."""

    model_config = ConfigDict(json_schema_extra={"example": {"created": 2, "changed": 0, "unchanged": 0, "faults": []}})

    created: int = Field(description="Tracks that had no outcome before.")
    changed: int = Field(description="Tracks whose outcome is another one now.")
    unchanged: int = Field(description="Tracks that had the same outcome.")
    faults: list[Fault] = Field(description="Outcomes that were not stored.")


class ListedOutcome(BaseModel):
    """A stored outcome."""

    track_id: int
    onset_timestamp: float | None
    received_at: float


class OutcomeList(BaseModel):
    """Outcomes in the order in which they were first sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "outcomes": [{"track_id": 17, "onset_timestamp": 1796083126.5, "received_at": 1796090000.25}],
                "next": None,
            }
        }
    )

    outcomes: list[ListedOutcome]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


@router.post("", summary="Send true onsets")
async def send(
    body: NewOutcomes, services: ServicesOf, principal: Annotated[Principal, require(Scope.OUTCOMES)]
) -> StoredBody:
    """Store the true onset of each track. The last value of a track counts, and a repetition changes nothing.

    The report of an experiment measures the error of the onsets by them.
    """
    answers = [outcome.answer_id for outcome in body.outcomes if outcome.answer_id is not None]
    tracks = await services.outcomes.tracks_of(principal.account_id, answers) if answers else {}
    onsets: dict[int, float | None] = {}
    faults = []
    for index, outcome in enumerate(body.outcomes):
        track_id: Any = outcome.track_id if outcome.answer_id is None else tracks.get(outcome.answer_id)
        if track_id is None:
            faults.append(
                Fault(
                    where=f"outcomes.{index}.answer_id",
                    problem="the inference log of the account has no such answer; a new one may arrive there later",
                    got=str(outcome.answer_id),
                )
            )
        else:
            onsets[track_id] = outcome.onset_timestamp
    stored = await services.outcomes.store(principal.account_id, onsets)
    return StoredBody(created=stored.created, changed=stored.changed, unchanged=stored.unchanged, faults=faults)


@router.get("", summary="List true onsets")
async def list_outcomes(
    services: ServicesOf,
    principal: Annotated[Principal, require(Scope.READ)],
    limit: Limit = 100,
    cursor: Cursor = None,
) -> OutcomeList:
    """List the true onsets of the account."""
    rows, following = await services.outcomes.list(principal.account_id, limit=limit, cursor=cursor)
    return OutcomeList(
        outcomes=[ListedOutcome(**{name: getattr(row, name) for name in ListedOutcome.model_fields}) for row in rows],
        next=following,
    )
