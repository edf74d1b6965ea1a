"""Experiments: A/B and shadow comparisons of two served versions, and their reports."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Principal, Scope, require
from gateway.comparison.assignment import Mode, Target, TargetServer, Variant
from gateway.comparison.compared import ONSET_ERROR, Compared
from gateway.comparison.confidence import ALPHA, Verdict
from gateway.comparison.experiments import Plan
from gateway.comparison.report import report_of
from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import ROW_ID, ServicesOf
from gateway.routes.support.pages import Cursor, Limit

router = APIRouter(
    prefix="/experiments",
    tags=["experiments"],
    responses=answers("unauthorized", "forbidden", "invalid-value", "rate-limited", "database-unavailable"),
)

ReadPrincipal = Annotated[Principal, require(Scope.READ)]
ManagingPrincipal = Annotated[Principal, require(Scope.EXPERIMENTS)]
ExperimentId = Annotated[str, Path(pattern=ROW_ID, description="Id of the experiment.", examples=["exp_01jd8x3c9k"])]


_EXPERIMENT: Final[dict[str, Any]] = {
    "id": "exp_01m8qeb49dt47eav65rkdqvbzv",
    "name": "wider network",
    "mode": "shadow",
    "control": {"model": "reentry", "server": "main"},
    "challenger": {"model": "reentry_candidate", "server": "main"},
    "share": 0.2,
    "state": "running",
    "created_at": 1796083126.5,
    "ended_at": None,
}
_METRIC: Final[dict[str, Any]] = {
    "name": ONSET_ERROR.name,
    "unit": ONSET_ERROR.unit,
    "meaning": ONSET_ERROR.meaning,
    "control": 0.62,
    "challenger": 0.47,
    "control_tracks": 4_012,
    "challenger_tracks": 4_012,
    "difference": -0.15,
    "low": -0.21,
    "high": -0.09,
    "margin": ONSET_ERROR.margin,
    "verdict": "better",
}


class TargetBody(BaseModel):
    """A served version."""

    model_config = ConfigDict(extra="forbid")

    model: Literal["reentry", "reentry_fast", "reentry_candidate"] = Field(
        "reentry",
        description="Ensemble that scores the tracks. `reentry_candidate` is served by `reentry repository compare`.",
    )
    server: TargetServer = Field(
        TargetServer.MAIN, description="`main` for `triton_url`, `second` for `second_triton_url` of the settings."
    )


class NewExperiment(BaseModel):
    """An experiment to start."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "wider network",
                "mode": "shadow",
                "challenger": {"model": "reentry_candidate"},
                "share": 0.2,
            }
        },
    )

    name: str = Field(
        min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", description="Name, unique in the account."
    )
    mode: Mode = Field(description="`ab`: the variant of a track answers it. `shadow`: the control always answers.")
    control: TargetBody = Field(TargetBody(model="reentry", server=TargetServer.MAIN), description="Version in use.")
    challenger: TargetBody = Field(description="Version to compare with it.")
    share: float = Field(
        0.5, gt=0.0, le=1.0, strict=True, description="Share of the tracks that the challenger scores."
    )


class Change(BaseModel):
    """A change of an experiment."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["ended"] = Field(description="`ended` ends the experiment; it cannot be started again.")


class ExperimentBody(BaseModel):
    """An experiment."""

    model_config = ConfigDict(json_schema_extra={"example": _EXPERIMENT})

    id: str
    name: str
    mode: Mode
    control: TargetBody
    challenger: TargetBody
    share: float
    state: Literal["running", "ended"]
    created_at: float
    ended_at: float | None


class ExperimentList(BaseModel):
    """Experiments of the account, the newest first."""

    model_config = ConfigDict(json_schema_extra={"example": {"experiments": [_EXPERIMENT], "next": None}})

    experiments: list[ExperimentBody]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class MetricBody(BaseModel):
    """Comparison by one metric."""

    name: str
    unit: str
    meaning: str
    control: float | None = Field(description="Mean of the control.")
    challenger: float | None = Field(description="Mean of the challenger.")
    control_tracks: int
    challenger_tracks: int
    difference: float | None = Field(description="Challenger minus control; null with fewer than 100 tracks or pairs.")
    low: float | None = Field(description="Lower end of the confidence sequence of the difference.")
    high: float | None = Field(description="Upper end of the confidence sequence of the difference.")
    margin: float = Field(description="Largest difference that does not matter.")
    verdict: Verdict


class ReportBody(BaseModel):
    """Report of an experiment. It may be read at any time, and the experiment may be ended because of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "experiment": _EXPERIMENT,
                "tracks": {"control": 4_120, "challenger": 4_120},
                "versions": {"control": [2], "challenger": [3]},
                "outcomes": 4_012,
                "agreement": 0.988,
                "alpha": ALPHA,
                "metrics": [_METRIC],
                "warnings": [],
            }
        }
    )

    experiment: ExperimentBody
    tracks: dict[Variant, int] = Field(description="Tracks with an answer; in a shadow experiment the pairs.")
    versions: dict[Variant, list[int]] = Field(description="Versions of the network that answered.")
    outcomes: int = Field(description="Tracks with a true onset, see /v1/outcomes.")
    agreement: float | None = Field(description="Share of the pairs with the same decision; null for A/B.")
    alpha: float = Field(description="Probability that any verdict of the report is ever a false alarm.")
    metrics: list[MetricBody]
    warnings: list[str]


@router.post("", status_code=201, summary="Start an experiment", responses=answers("conflict"))
async def create(body: NewExperiment, services: ServicesOf, principal: ManagingPrincipal) -> ExperimentBody:
    """Start to compare two served versions on the tracks of the account.

    It applies within a second. An account runs one experiment at a time.
    """
    control, challenger = (
        Target(model=target.model, server=target.server) for target in (body.control, body.challenger)
    )
    if control == challenger:
        raise Problem(
            "invalid-value",
            "control and challenger are the same",
            where="body.challenger",
            got=f"{challenger.model} on the server {challenger.server}",
            fix="serve another version with `reentry repository compare`, and name reentry_candidate",
        )
    if TargetServer.SECOND in (control.server, challenger.server) and not services.settings.second_triton_url:
        raise Problem(
            "invalid-value",
            "the gateway has no second Triton",
            where="body",
            expected="server: main",
            fix="set second_triton_url in the settings of the gateway",
        )
    plan = await services.experiments.create(
        principal.account_id,
        name=body.name,
        mode=body.mode,
        control=control,
        challenger=challenger,
        share=body.share,
    )
    return _body(plan)


@router.get("", summary="List the experiments")
async def list_experiments(
    services: ServicesOf,
    principal: ReadPrincipal,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> ExperimentList:
    """List the experiments of the account, the newest first."""
    plans, following = await services.experiments.list(principal.account_id, limit=limit, cursor=cursor)
    return ExperimentList(experiments=[_body(plan) for plan in plans], next=following)


@router.get("/{experiment_id}", summary="Show an experiment", responses=answers("not-found"))
async def show(experiment_id: ExperimentId, services: ServicesOf, principal: ReadPrincipal) -> ExperimentBody:
    """Show an experiment without its report."""
    return _body(await services.experiments.get(principal.account_id, experiment_id))


@router.get("/{experiment_id}/report", summary="Compare the variants", responses=answers("not-found"))
async def report(experiment_id: ExperimentId, services: ServicesOf, principal: ReadPrincipal) -> ReportBody:
    """Compare the variants by all tracks so far.

    The intervals are confidence sequences: they stay valid however often the report is read.
    """
    plan = await services.experiments.get(principal.account_id, experiment_id)
    found = await report_of(services.database, plan)
    return ReportBody(
        experiment=_body(plan),
        tracks=found.tracks,
        versions=found.versions,
        outcomes=found.outcomes,
        agreement=found.agreement,
        alpha=ALPHA,
        metrics=[_metric(compared) for compared in found.compared],
        warnings=found.warnings,
    )


@router.patch("/{experiment_id}", summary="End an experiment", responses=answers("not-found"))
async def change(
    experiment_id: ExperimentId,
    body: Change,  # noqa: ARG001  # its only value is the one change there is
    services: ServicesOf,
    principal: ManagingPrincipal,
) -> ExperimentBody:
    """End an experiment. Within a second all tracks are scored as before it."""
    return _body(await services.experiments.end(principal.account_id, experiment_id))


@router.delete(
    "/{experiment_id}",
    status_code=204,
    summary="Delete an ended experiment",
    responses=answers("not-found", "conflict"),
)
async def delete(experiment_id: ExperimentId, services: ServicesOf, principal: ManagingPrincipal) -> Response:
    """Delete an ended experiment. Its answers stay in the inference log."""
    await services.experiments.delete(principal.account_id, experiment_id)
    return Response(status_code=204)


def _body(plan: Plan) -> ExperimentBody:
    fields: dict[str, Any] = {
        name: getattr(plan, name) for name in ("id", "name", "mode", "share", "state", "created_at", "ended_at")
    }
    return ExperimentBody(
        **fields,
        control=TargetBody.model_validate(plan.control.as_dict()),
        challenger=TargetBody.model_validate(plan.challenger.as_dict()),
    )


def _metric(compared: Compared) -> MetricBody:
    metric, interval = compared.metric, compared.interval
    return MetricBody(
        name=metric.name,
        unit=metric.unit,
        meaning=metric.meaning,
        control=compared.control,
        challenger=compared.challenger,
        control_tracks=compared.control_tracks,
        challenger_tracks=compared.challenger_tracks,
        difference=None if interval is None else float(interval.estimate),
        low=None if interval is None else float(interval.low),
        high=None if interval is None else float(interval.high),
        margin=metric.margin,
        verdict=compared.verdict,
    )
