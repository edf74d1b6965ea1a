"""Scoring of tracks: POST /v1/tracks:score."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from client.scoring import Refusal
from gateway import metrics
from gateway.accounts.principal import Scope
from gateway.inference_log.track_row import of_request
from gateway.jobs.answers import JobAnswer
from gateway.problems import Problem, answers
from gateway.routes.support.dependencies import parts_of
from gateway.routes.support.json_bodies import body_of
from gateway.routes.support.negotiation import preferred
from gateway.routes.support.presence import while_connected
from gateway.routes.support.request_body import read_request_body
from gateway.routes.support.respond_async import prefers_job, score_later
from gateway.routes.support.track_records import log_rows, publish, record
from gateway.scoring.answers import RESULTS, Answer, answer_of, encode
from gateway.scoring.bodies import ARROW, CSV, JSON, MEDIA_TYPES, PARQUET, JsonTracks, media_type_of, read_body
from gateway.scoring.cache import CachedAnswer, content_key
from gateway.scoring.scorer import MODELS, ScoredTrack, counted
from gateway.traces import step_span
from reentry.schema import ENSEMBLE, REENTRY_FAST

router = APIRouter(tags=["tracks"])

_IN_THREAD: Final = 64 * 1024
"""Bytes of a body from which on it is read in a thread, so that other requests are not held up."""
_JSON_IN_THREAD: Final = 512 * 1024
"""The same for JSON, which holds fewer tracks in a byte."""
_ROWS_IN_THREAD: Final = 20_000
"""Steps of a request from which on its answer is made in a thread."""
_CACHED: Final = metrics.TRACKS.labels("cached")


_TABLE: Final = (
    "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity\n"
    "1700000000.0,7,1,34.10,-120.50,91000.0,0.31\n1700000000.5,7,1,34.12,-120.47,90500.0,0.35\n"
)
_JSON_TRACKS: Final = {
    "tracks": [
        {
            "track_id": 7,
            "sensor_id": 1,
            "timestamp": [1700000000.0, 1700000000.5],
            "latitude": [34.10, 34.12],
            "longitude": [-120.50, -120.47],
            "altitude": [91000.0, 90500.0],
            "radiometric_intensity": [0.31, 0.35],
        }
    ]
}
_JSON_ANSWER: Final = {
    "degraded": False,
    "tracks": [
        {
            "track_id": 7,
            "rows": 2,
            "onset_row": None,
            "onset_timestamp": None,
            "model": "reentry",
            "model_version": 3,
            "degraded": False,
            "unlike_training": ["duration"],
            "reentry_probability": [0.000012, 0.000011],
            "reentry_phase": [0, 0],
        }
    ],
    "refused": [],
    "repairs": {},
}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "Rows of tracks with the columns of a track file, in any order. Arrow is the fastest.",
        "content": {
            **body_of(JsonTracks, _JSON_TRACKS)["content"],
            CSV: {"schema": {"type": "string"}, "example": _TABLE},
            PARQUET: _BINARY,
            ARROW: _BINARY,
        },
    }
}
_OK: Final = {
    "description": "The scored tracks, and the faults of the others.",
    "headers": {
        "X-Model-Version": {"description": "Version of the network.", "schema": {"type": "string"}},
        "X-Tracks-Refused": {"description": "Number of refused tracks.", "schema": {"type": "string"}},
        "X-Degraded": {"description": "Whether the altitude-fraction rule answered.", "schema": {"type": "string"}},
        "X-Cache": {"description": "hit or miss.", "schema": {"type": "string"}},
    },
    "content": {
        **body_of(Answer, _JSON_ANSWER)["content"],
        CSV: {
            "schema": {"type": "string"},
            "example": '"track_id","reentry_probability","reentry_phase"\n7,0.000012,0\n7,0.000011,0\n',
        },
        PARQUET: _BINARY,
        ARROW: _BINARY,
    },
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    **answers(
        *("invalid-request", "unauthorized", "forbidden", "not-acceptable", "body-too-large"),
        *("unsupported-media-type", "invalid-tracks", "invalid-value", "rate-limited", "invalid-answer"),
        *("overloaded", "model-unavailable", "shutting-down"),
    ),
    200: _OK,
    202: {"model": JobAnswer, "description": "A job scores the tracks, as `Prefer: respond-async` asked."},
}


_CHOICES: Final = {"model": (ENSEMBLE.name, REENTRY_FAST.name), "result": RESULTS}
"""Values of the query parameters; the first one is the default."""
_PARAMETERS: Final = [
    {
        "name": "model",
        "in": "query",
        "schema": {"type": "string", "enum": list(_CHOICES["model"]), "default": _CHOICES["model"][0]},
        "description": "`reentry_fast` is faster; it neither compares with the training data nor refines onsets.",
    },
    {
        "name": "result",
        "in": "query",
        "schema": {"type": "string", "enum": list(_CHOICES["result"]), "default": _CHOICES["result"][0]},
        "description": "`rows` for the probability and phase of each row, or `tracks` for the onsets alone.",
    },
    {
        "name": "Prefer",
        "in": "header",
        "schema": {"type": "string"},
        "description": "`respond-async` creates a job instead, which needs the scope `jobs`; the answer is 202.",
    },
]


@router.post(
    "/tracks:score", summary="Score tracks", openapi_extra={**_BODY, "parameters": _PARAMETERS}, responses=_ANSWERS
)
async def score_tracks(request: Request) -> Response:
    """Score every track of the body, and answer in the type that `Accept` names.

    A track with faults is listed under `refused` with all of them, and the others are scored. An answer as CSV, Parquet
    or Arrow has one row for each row of the body, or one for each track. The metadata of its Arrow schema, key
    `reentry`, contains the JSON answer without rows; `X-Tracks-Refused` counts the refused tracks.
    """
    # FastAPI would take longer to collect the parameters than everything here but the scoring itself.
    begun = time.perf_counter()
    services, principal, context = parts_of(request, Scope.SCORE)
    _check_query(request)
    model, result = (_chosen(request, name) for name in _CHOICES)
    headers = request.headers
    sent_type = media_type_of(headers.get("content-type"))
    if prefers_job(headers.get("prefer")):
        return await score_later(request, services, principal, context, sent_type)
    media_type = preferred(headers.get("accept", ""), tuple(dict.fromkeys((sent_type, *MEDIA_TYPES))))
    services.scorer.check(principal)
    body = await read_request_body(request, services.settings.largest_body)
    content = content_key(body, sent_type)
    key = content_key(content, media_type, result, model)
    triton, is_shared = services.scorer.main.triton, not services.scorer.has_experiment(principal.account_id)
    cached = await services.cache.get(key, triton.version(MODELS[model])) if is_shared else None
    if cached is not None:
        await services.limits.charge_steps(principal, cached.steps, context)
        rows = [
            {**row, **of_request(principal, context.request_id, seconds=time.perf_counter() - begun), "cached": True}
            for row in cached.rows
        ]
        _CACHED.inc(len(rows))
        services.log.record(rows, account_id=principal.account_id, refused=cached.refused)
        return Response(cached.body, headers={**cached.headers, "x-cache": "hit"}, media_type=media_type)
    with step_span("read tracks"):
        is_large = len(body) > (_JSON_IN_THREAD if sent_type == JSON else _IN_THREAD)
        file = await asyncio.to_thread(read_body, body, sent_type) if is_large else read_body(body, sent_type)
    with file:
        tracks = list(file)
        steps = file.row_count  # reading a track with faults takes as long
        await services.limits.charge_steps(principal, steps, context)
        scored = await while_connected(request, services.scorer.score(principal, tracks, MODELS[model], content))
        counted(scored)
        metrics.TRACKS.labels("refused").inc(len(file.report.set_aside))
        is_big = steps > _ROWS_IN_THREAD
        answer = await asyncio.to_thread(answer_of, file, scored) if is_big else answer_of(file, scored)
        rows = await asyncio.to_thread(log_rows, scored) if is_big else log_rows(scored)
        given = _headers(answer)
        parts = answer, file, scored, media_type, result
        encoded = await asyncio.to_thread(encode, *parts) if is_big else encode(*parts)
        record(services, principal, context, rows, scored, answer, seconds=time.perf_counter() - begun)
        if not answer.tracks:
            raise await asyncio.to_thread(_no_track, answer, scored) if is_big else _no_track(answer, scored)
    publish(services, principal, scored)
    versions = {track.model_version for track in answer.tracks}
    is_final = not any(isinstance(each.outcome, Refusal) or each.assignment for each in scored)
    if is_shared and is_final and not answer.degraded and len(versions) == 1 and (version := versions.pop()):
        kept = CachedAnswer(encoded, given, steps, len(answer.refused), rows)
        await services.cache.put(key, version, kept)
    return Response(encoded, headers={**given, "x-cache": "miss"}, media_type=media_type)


def _check_query(request: Request) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in _CHOICES or names.count(name) > 1:
            problem = "repeated query parameter" if name in _CHOICES else "unknown query parameter"
            expected = f"{' and '.join(_CHOICES)}, each at most once"
            raise Problem("invalid-value", problem, where="query", expected=expected, got=name[:100])


def _chosen(request: Request, name: str) -> str:
    value: str = request.query_params.get(name, _CHOICES[name][0])
    if value not in _CHOICES[name]:
        where, expected = f"query parameter {name}", " or ".join(_CHOICES[name])
        raise Problem("invalid-value", f"unknown {name}", where=where, expected=expected, got=value[:100])
    return value


def _headers(answer: Answer) -> dict[str, str]:
    versions = sorted({str(track.model_version or "none") for track in answer.tracks})
    return {
        "x-model-version": ", ".join(versions),
        "x-tracks-refused": str(len(answer.refused)),
        "x-degraded": str(answer.degraded).lower(),
    }


def _no_track(answer: Answer, scored: Sequence[ScoredTrack]) -> Problem:
    if any(isinstance(each.outcome, Refusal) and each.outcome.is_fault for each in scored):
        return Problem("invalid-answer", "the model failed on every track that it was given", where="the model server")
    faults = [
        {
            "track_id": each.track_id,
            "rows": each.rows,
            "problem": fault.problem,
            "row": fault.row,
            "column": fault.column,
            "got": fault.got,
        }
        for each in answer.refused
        for fault in each.faults
    ]
    return Problem(
        "invalid-tracks", f"none of the {len(answer.refused)} tracks can be scored", where="body", faults=faults
    )
