"""Results, errors and events of a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, BinaryIO, Final

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Row

from gateway.accounts.principal import Principal, Scope
from gateway.events.sse import MEDIA_TYPE as EVENT_STREAM
from gateway.events.sse import EventStream, encode_event
from gateway.jobs.answers import JobAnswer
from gateway.jobs.files.store import StoreError
from gateway.jobs.results import JSON_LINES, converted, parts
from gateway.jobs.states import ENDED, WITH_RESULTS
from gateway.problems import Problem, answers
from gateway.routes.jobs import JobId, Sender
from gateway.routes.support.dependencies import ServicesOf
from gateway.routes.support.negotiation import preferred
from gateway.routes.support.presence import still_valid
from gateway.scoring.bodies import ARROW, CSV, PARQUET
from gateway.services import Services
from reentry.tracks.sources import FIELDS

router = APIRouter(
    prefix="/jobs/{job_id}",
    tags=["jobs"],
    responses=answers(
        "unauthorized", "forbidden", "not-found", "invalid-value", "rate-limited", "database-unavailable"
    ),
)

_POLL_SECONDS: Final = 0.5
_JSON: Final = "application/json"


class ResultFile(StrEnum):
    """Result file of a job."""

    PREDICTIONS = "predictions"
    """Every row of the file with its probability and its phase."""
    ONSETS = "onsets"
    """One row for each track."""
    INFERENCE = "inference"
    """One JSON object for each track, with times and versions."""


_NAMES: Final = {
    ResultFile.PREDICTIONS: "predictions.csv",
    ResultFile.ONSETS: "onsets.csv",
    ResultFile.INFERENCE: "inference.jsonl",
}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/results",
    summary="Download results",
    response_class=StreamingResponse,
    responses=answers("conflict", "not-acceptable", "store-unavailable")
    | {
        200: {
            "description": "The file.",
            "content": {
                CSV: {
                    "schema": {"type": "string"},
                    "example": "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity,"
                    "reentry_probability,reentry_phase\n1700000000.0,1,1,34.1,-120.5,91000.0,0.31,0.012345,0\n",
                },
                PARQUET: _BINARY,
                ARROW: _BINARY,
                JSON_LINES: {
                    "schema": {"type": "string"},
                    "example": '{"track_id": 1, "rows": 2, "onset_row": null, "inference_seconds": 0.004, ...}\n',
                },
            },
        }
    },
)
async def results(
    job_id: JobId,
    request: Request,
    services: ServicesOf,
    sender: Sender,
    file: Annotated[ResultFile, Query(description="Which file.")] = ResultFile.PREDICTIONS,
) -> Response:
    """Download a result file of a completed or cancelled job.

    CSV is the file that `reentry predict` writes, byte for byte. `Accept` selects Parquet or an Arrow stream instead.
    """
    row = await _with_results(services, sender, job_id)
    offered = (JSON_LINES,) if file == ResultFile.INFERENCE else (CSV, PARQUET, ARROW)
    media_type = preferred(request.headers.get("accept", ""), offered)
    if media_type in (PARQUET, ARROW) and file == ResultFile.PREDICTIONS:
        await _check_convertible(services, row)
    name = _NAMES[file]
    headers = {"vary": "Accept", "content-disposition": f'attachment; filename="{_attachment(name, media_type)}"'}
    size = await _size(services, row, name)
    if size is None:
        raise Problem("conflict", "the job has no results", where="state", got=row.state)
    opened = await _open(services, row, name)
    if media_type in (CSV, JSON_LINES):
        return StreamingResponse(parts(opened), headers=headers | {"content-length": str(size)}, media_type=media_type)
    return StreamingResponse(converted(opened, media_type), headers=headers, media_type=media_type)


@router.get(
    "/errors",
    summary="List the tracks that were set aside",
    response_class=StreamingResponse,
    responses=answers("conflict", "not-acceptable", "store-unavailable")
    | {
        200: {
            "description": "The tracks, or their rows as CSV.",
            "content": {
                _JSON: {
                    "example": {
                        "error": None,
                        "tracks": [
                            {
                                "track_id": 7,
                                "rows": 900,
                                "reason": "row 6300, column latitude: above 90 degrees, got 95 (900 rows)",
                                "faults": [
                                    {
                                        "row": 6300,
                                        "column": "latitude",
                                        "track_id": 7,
                                        "problem": "above 90 degrees",
                                        "got": "95",
                                        "count": 900,
                                    }
                                ],
                            }
                        ],
                    }
                },
                CSV: {
                    "schema": {"type": "string"},
                    "example": "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity,"
                    "set_aside_row,set_aside_reason\n1700000000.0,7,1,95.0,-120.5,91000.0,0.31,6300,"
                    '"row 6300, column latitude: above 90 degrees, got 95"\n',
                },
            },
        }
    },
)
async def errors(job_id: JobId, request: Request, services: ServicesOf, sender: Sender) -> Response:
    """List every track that was not scored, with all its faults.

    CSV has the unchanged rows with their reasons; corrected, it is a file of tracks again. `error` is the problem of a
    failed or expired job.
    """
    row = await services.jobs.get(sender, job_id)
    if row.state not in ENDED:
        raise _unfinished(row)
    media_type = preferred(request.headers.get("accept", ""), (_JSON, CSV))
    name = "set_aside.csv" if media_type == CSV else "set_aside.jsonl"
    size = await _size(services, row, name) if row.state in WITH_RESULTS else None
    opened = None if size is None else await _open(services, row, name)
    if media_type == _JSON:
        return StreamingResponse(_as_json(row.error, opened), headers={"vary": "Accept"}, media_type=_JSON)
    if opened is None:
        return Response(b"", headers={"vary": "Accept"}, media_type=CSV)
    headers = {"vary": "Accept", "content-length": str(size)}
    return StreamingResponse(parts(opened), headers=headers, media_type=CSV)


@router.get(
    "/events",
    summary="Follow a job",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {
            "description": "Events `job`, each with the whole job as its data and its revision as its id.",
            "content": {
                EVENT_STREAM: {
                    "schema": {"type": "string"},
                    "example": 'retry: 1000\n\nid: 7\nevent: job\ndata: {"id": "job_01m8...", "state": "running"}\n\n',
                }
            },
        },
        204: {"description": "The job has ended, and `Last-Event-ID` is its last event: do not connect again."},
    },
)
async def events(
    job_id: JobId,
    request: Request,
    services: ServicesOf,
    sender: Sender,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**62, description="Id of the last event received.")] = None,
) -> Response:
    """Send the job whenever it has changed, until it has ended or the key is revoked."""
    row = await services.jobs.get(sender, job_id)
    seen = -1 if last_event_id is None else last_event_id
    if row.state in ENDED and row.revision <= seen:
        return Response(status_code=204)
    admission = services.readers.admit(sender.key_id)
    check = partial(still_valid, services, request.scope, Scope.JOBS)
    return EventStream(_changes(services, sender, row, seen, check), services.stopping, admission=admission)


async def _changes(
    services: Services, sender: Principal, row: Row[Any], seen: int, check: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """Yield the job whenever its revision has increased; skipped revisions are part of the next one."""
    while True:
        if row.revision > seen:
            seen = row.revision
            yield encode_event("job", JobAnswer.of(row).model_dump(mode="json"), seen)
        if row.state in ENDED:
            return
        await asyncio.sleep(_POLL_SECONDS)
        if not await check():
            return
        try:
            row = await services.jobs.get(sender, row.id)
        except Problem:  # it was deleted
            return


async def _with_results(services: Services, sender: Principal, job_id: JobId) -> Row[Any]:
    row = await services.jobs.get(sender, job_id)
    if row.state not in ENDED:
        raise _unfinished(row)
    if row.state not in WITH_RESULTS:
        raise Problem(
            *("conflict", f"the job is {row.state} and has no results"),
            where="state",
            expected="completed or cancelled",
            got=row.state,
            fix="see `error` of the job",
        )
    return row


def _unfinished(row: Row[Any]) -> Problem:
    return Problem(
        *("conflict", "the job has not ended"),
        where="state",
        expected="completed or cancelled",
        got=row.state,
        fix=f"follow /v1/jobs/{row.id}/events",
    )


async def _size(services: Services, row: Row[Any], name: str) -> int | None:
    try:
        return await asyncio.to_thread(services.jobs.files.size, row.id, row.fence, name)
    except StoreError as error:
        raise Problem.of("store-unavailable", error) from error


async def _open(services: Services, row: Row[Any], name: str) -> BinaryIO:
    try:
        return await asyncio.to_thread(services.jobs.files.open, row.id, row.fence, name)
    except StoreError as error:
        raise Problem.of("store-unavailable", error) from error


async def _check_convertible(services: Services, row: Row[Any]) -> None:
    """Refuse to convert a file in which rows lack cells, because a table cannot hold them as they are."""
    if await _size(services, row, "set_aside.jsonl") is None:
        return
    opened = await _open(services, row, "set_aside.jsonl")
    if await asyncio.to_thread(_has_misfits, opened):
        raise Problem(
            *("not-acceptable", "some rows of the file have another number of cells than its header"),
            where="Accept",
            expected=CSV,
            fix="download CSV, or correct the rows that /errors lists and create the job again",
        )


def _has_misfits(opened: BinaryIO) -> bool:
    with opened:
        return any(fault["column"] == FIELDS for line in opened for fault in json.loads(line)["faults"])


def _as_json(error: dict[str, Any] | None, opened: BinaryIO | None) -> Iterator[bytes]:
    """Yield {"error": ..., "tracks": [...]} from a file with one line for each track."""
    yield b'{"error":' + json.dumps(error).encode() + b',"tracks":['
    if opened is not None:
        with opened:
            for number, line in enumerate(opened):
                yield (b"," if number else b"") + line.rstrip(b"\n")
    yield b"]}"


def _attachment(name: str, media_type: str) -> str:
    suffix = {PARQUET: ".parquet", ARROW: ".arrows"}.get(media_type)
    return name if suffix is None else name.rpartition(".")[0] + suffix
