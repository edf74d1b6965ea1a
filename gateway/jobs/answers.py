"""A job as its account sees it: in the answers of the routes, in events and in webhooks."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row
from starlette.responses import Response

from gateway.jobs.states import ENDED, JobState


class JobLinks(BaseModel):
    """Paths of a job."""

    self: str
    results: str
    errors: str
    events: str


class JobAnswer(BaseModel):
    """A job."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "job_01kbb2x5sd8r3k1m0v7y6wq9ct",
                "state": "running",
                "progress": 0.75,
                "bytes": 26_214_400,
                "rows": 360_000,
                "tracks": 400,
                "tracks_done": 299,
                "tracks_refused": 1,
                "model_version": 3,
                "attempts": 1,
                "revision": 7,
                "created_at": 1796083126.5,
                "started_at": 1796083127.25,
                "finished_at": None,
                "deadline_at": 1796169526.5,
                "expires_at": 1796774326.5,
                "webhook_url": "https://hooks.example.com/reentry",
                "error": None,
                "links": {
                    "self": "/v1/jobs/job_01kbb2x5sd8r3k1m0v7y6wq9ct",
                    "results": "/v1/jobs/job_01kbb2x5sd8r3k1m0v7y6wq9ct/results",
                    "errors": "/v1/jobs/job_01kbb2x5sd8r3k1m0v7y6wq9ct/errors",
                    "events": "/v1/jobs/job_01kbb2x5sd8r3k1m0v7y6wq9ct/events",
                },
            }
        }
    )

    id: str
    state: JobState
    progress: float = Field(description="Share of the tracks that are scored or refused, from 0 to 1.")
    bytes: int = Field(description="Size of the file.")
    rows: int | None = Field(description="Number of rows in the file; null until it is read.")
    tracks: int | None = Field(description="Number of tracks in the file; null until it is read.")
    tracks_done: int = Field(description="Number of scored tracks.")
    tracks_refused: int = Field(description="Number of tracks that were set aside, see `errors`.")
    model_version: int | None = Field(description="Version of the model; null before the first answer of the server.")
    attempts: int = Field(description="Number of workers that took the job since it last made progress.")
    revision: int = Field(description="Number of changes of the job; the id of its events.")
    created_at: float = Field(description="Unix time, s.")
    started_at: float | None = Field(description="Unix time at which a worker first took the job, s.")
    finished_at: float | None = Field(description="Unix time of its end, s.")
    deadline_at: float = Field(description="Unix time at which the job expires if it is not complete, s.")
    expires_at: float = Field(description="Unix time at which the job and its files are deleted, s.")
    webhook_url: str | None
    error: dict[str, Any] | None = Field(description="Problem details of a failed or expired job.")
    links: JobLinks

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """Return the answer for a row of the table of jobs."""
        handled = row.tracks_done + row.tracks_refused
        progress = 1.0 if row.state == JobState.COMPLETED else min(1.0, handled / row.tracks) if row.tracks else 0.0
        path = f"/v1/jobs/{row.id}"
        return cls(
            **{
                name: getattr(row, name)
                for name in (
                    *("id", "state", "bytes", "rows", "tracks", "tracks_done", "tracks_refused", "model_version"),
                    *("attempts", "revision", "webhook_url", "error"),
                    *("created_at", "started_at", "finished_at", "deadline_at", "expires_at"),
                )
            },
            progress=round(progress, 4),
            links=JobLinks(self=path, results=f"{path}/results", errors=f"{path}/errors", events=f"{path}/events"),
        )

    def accepted_headers(self, *, respond_async: bool = False) -> dict[str, str]:
        """Return the headers of the answer 202 to the request that created the job.

        Args:
            respond_async: whether the request asked for a job with `Prefer: respond-async`.
        """
        preference = {"preference-applied": "respond-async"} if respond_async else {}
        return {"content-type": "application/json", "location": self.links.self, **preference}

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED


def accepted(row: Row[Any], *, respond_async: bool = False) -> Response:
    """Return the answer 202 to a request that created a job.

    Args:
        row: the job.
        respond_async: whether the client asked for a job with `Prefer: respond-async`.
    """
    answer = JobAnswer.of(row)
    return Response(answer.model_dump_json(), 202, answer.accepted_headers(respond_async=respond_async))
