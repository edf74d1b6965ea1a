"""Jobs: files that are scored in the background."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.accounts.principal import Principal, Scope, require
from gateway.jobs.answers import JobAnswer, accepted
from gateway.jobs.states import JobState
from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import ROW_ID, ContextOf, ServicesOf
from gateway.routes.support.json_bodies import body_of, read_json
from gateway.routes.support.pages import Cursor, Limit

router = APIRouter(
    prefix="/jobs",
    tags=["jobs"],
    responses=answers("unauthorized", "forbidden", "invalid-value", "rate-limited", "database-unavailable"),
)

Sender = Annotated[Principal, require(Scope.JOBS)]
JobId = Annotated[str, Path(pattern=ROW_ID, description="Id of the job.")]

_LONGEST_REFERENCE: Final = 16_384
_JSON: Final = "application/json"


class JobReference(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A job for a file that is in the object store already."""

    source: Annotated[
        str, msgspec.Meta(description="Address s3://... under a prefix that the operator has configured.")
    ]
    webhook_url: Annotated[str, msgspec.Meta(max_length=2_048)] | None = None
    deadline_seconds: Annotated[float, msgspec.Meta(ge=1, le=2_592_000)] | None = None


class JobPage(BaseModel):
    """A page of jobs."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"jobs": [JobAnswer.model_config["json_schema_extra"]["example"]], "next": None}}  # type: ignore[index]
    )

    jobs: list[JobAnswer]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


_REFERENCE: Final = msgspec.json.Decoder(JobReference)
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The file of tracks itself, or JSON with a reference to an object in the configured store.",
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity\n"
                "1700000000.0,1,1,34.1,-120.5,91000.0,0.31\n1700000000.5,1,1,34.2,-120.6,90500.0,0.35\n",
            },
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
            **body_of(JobReference, {"source": "s3://tracks/flights/2026-12-01.parquet"})["content"],
        },
    }
}


@router.post(
    "",
    status_code=202,
    summary="Create a job",
    response_model=JobAnswer,
    openapi_extra=_BODY,
    responses=answers(
        *("invalid-request", "conflict", "body-too-large", "unsupported-media-type", "store-unavailable")
    ),
)
async def create_job(
    request: Request,
    services: ServicesOf,
    sender: Sender,
    context: ContextOf,
    webhook_url: Annotated[
        str | None, Query(max_length=2_048, description="Address https://... that is told when the job has ended.")
    ] = None,
    deadline_seconds: Annotated[
        float | None,
        Query(ge=1, le=2_592_000, allow_inf_nan=False, description="Time after which the job expires, s."),
    ] = None,
) -> Response:
    """Upload a file of tracks, or refer to one, and score it in the background.

    `Location` is the path of the job. Its events, or a webhook, report when the results are ready.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Problem(
            *("unsupported-media-type", "a job's file must not be encoded"),
            where="Content-Encoding",
            expected="identity",
            got=encoding,
            fix="send the file as it is; Parquet compresses inside the file",
        )
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    given: dict[str, Any] = {"webhook_url": webhook_url, "deadline_seconds": deadline_seconds}
    origin = {"request_id": context.request_id, "claim": request.scope["state"].get("claim")}
    if media_type == _JSON:
        reference = await read_json(request, _REFERENCE.decode, _LONGEST_REFERENCE)
        fields = {name: getattr(reference, name) for name in given}
        row = await services.jobs.create(
            sender,
            source=reference.source,
            **origin,
            **{name: given[name] if value is None else value for name, value in fields.items()},
        )
    else:
        row = await services.jobs.create(sender, content=request.stream(), media_type=media_type, **origin, **given)
    return accepted(row)


@router.get("", summary="List jobs")
async def list_jobs(
    services: ServicesOf,
    sender: Sender,
    state: Annotated[JobState | None, Query(description="State of the jobs; by default all.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> JobPage:
    """List the jobs of the account, the newest first."""
    rows, following = await services.jobs.page(sender, state=state, limit=limit, cursor=cursor)
    return JobPage(jobs=[JobAnswer.of(row) for row in rows], next=following)


@router.get("/{job_id}", summary="Show a job", responses=answers("not-found"))
async def show_job(job_id: JobId, services: ServicesOf, sender: Sender) -> JobAnswer:
    """Show the state and the progress of a job."""
    return JobAnswer.of(await services.jobs.get(sender, job_id))


@router.delete(
    "/{job_id}",
    summary="Cancel or delete a job",
    response_model=JobAnswer,
    status_code=202,
    responses=answers("not-found", "conflict", "store-unavailable")
    | {
        200: {"description": "The job is cancelled: no worker had begun it.", "model": JobAnswer},
        204: {"description": "The job had ended, and is deleted with its files."},
    },
)
async def delete_job(job_id: JobId, services: ServicesOf, sender: Sender) -> Response:
    """Cancel a job; what is scored already is kept as its results. A job that has ended is deleted with its files."""
    row = await services.jobs.cancel_or_remove(sender, job_id)
    if row is None:
        return Response(status_code=204)
    answer = JobAnswer.of(row)
    return Response(answer.model_dump_json(), 200 if answer.ended else 202, media_type=_JSON)
