"""Experiments: A/B and shadow comparisons of two served versions, and their reports."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Principal, Scope, require
from gateway.comparison.assignment import Mode, Target, TargetServer, Variant
from gateway.comparison.compared import Compared
from gateway.comparison.confidence import ALPHA, Verdict
from gateway.comparison.experiments import Plan
from gateway.comparison.report import report_of
from gateway.problems import Problem
from gateway.routes.dependencies import ROW_ID, ServicesOf

router = APIRouter(prefix="/experiments", tags=["experiments"])

ReadPrincipal = Annotated[Principal, require(Scope.READ)]
AdminPrincipal = Annotated[Principal, require(Scope.ADMIN)]
ExperimentId = Annotated[str, Path(pattern=ROW_ID, description="Id of the experiment.", examples=["exp_01jd8x3c9k"])]


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
            "examples": [
                {"name": "wider network", "mode": "shadow", "challenger": {"model": "reentry_candidate"}, "share": 0.2}
            ]
        },
    )

    name: str = Field(
        min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", description="Name, unique in the account."
    )
    mode: Mode = Field(description="`ab`: the variant of a track answers it. `shadow`: the control always answers.")
    control: TargetBody = Field(TargetBody(model="reentry", server=TargetServer.MAIN), description="Version in use.")
    challenger: TargetBody = Field(description="Version to compare with it.")
    share: float = Field(0.5, gt=0.0, le=1.0, description="Share of the tracks that the challenger scores.")


class Change(BaseModel):
    """A change of an experiment."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["ended"] = Field(description="`ended` ends the experiment for good.")


class ExperimentBody(BaseModel):
    """An experiment."""

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

    experiments: list[ExperimentBody]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last one.")


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

    experiment: ExperimentBody
    tracks: dict[Variant, int] = Field(description="Tracks with an answer; in a shadow experiment the pairs.")
    versions: dict[Variant, list[int]] = Field(description="Versions of the network that answered.")
    outcomes: int = Field(description="Tracks with a true onset, see /v1/outcomes.")
    agreement: float | None = Field(description="Share of the pairs with the same decision; null for A/B.")
    alpha: float = Field(description="Probability that any verdict of the report is ever a false alarm.")
    metrics: list[MetricBody]
    warnings: list[str]


@router.post("", status_code=201, summary="Start an experiment")
async def create(body: NewExperiment, services: ServicesOf, principal: AdminPrincipal) -> ExperimentBody:
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
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=ROW_ID, description="`next_cursor` of the page before.")] = None,
) -> ExperimentList:
    """List the experiments of the account, the newest first."""
    plans = await services.experiments.list(principal.account_id, limit=limit + 1, before=cursor)
    return ExperimentList(
        experiments=[_body(plan) for plan in plans[:limit]],
        next_cursor=plans[limit - 1].id if len(plans) > limit else None,
    )


@router.get("/{experiment_id}", summary="Show an experiment")
async def show(experiment_id: ExperimentId, services: ServicesOf, principal: ReadPrincipal) -> ExperimentBody:
    """Show an experiment without its report."""
    return _body(await services.experiments.get(principal.account_id, experiment_id))


@router.get("/{experiment_id}/report", summary="Compare the variants")
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


@router.patch("/{experiment_id}", summary="End an experiment")
async def change(
    experiment_id: ExperimentId,
    body: Change,  # noqa: ARG001  # its only value is the one change there is
    services: ServicesOf,
    principal: AdminPrincipal,
) -> ExperimentBody:
    """End an experiment. Within a second all tracks are scored as before it."""
    return _body(await services.experiments.end(principal.account_id, experiment_id))


@router.delete("/{experiment_id}", status_code=204, summary="Delete an ended experiment")
async def delete(experiment_id: ExperimentId, services: ServicesOf, principal: AdminPrincipal) -> Response:
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
