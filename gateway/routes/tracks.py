"""Scoring of tracks: POST /v1/tracks:score."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from client.journal import Score
from gateway import metrics
from gateway.accounts.principal import Principal, Scope, require
from gateway.context import RequestContext
from gateway.inference_log.track_row import of_request, of_track
from gateway.problems import Problem
from gateway.routes.dependencies import ContextOf, ServicesOf
from gateway.routes.presence import while_connected
from gateway.routes.request_body import read_request_body
from gateway.scoring.answers import RESULTS, Answer, accepted_type, answer_of, encode
from gateway.scoring.bodies import media_type_of, read_body
from gateway.scoring.cache import CachedAnswer, content_key
from gateway.scoring.scorer import MODELS, ScoredTrack, counted
from gateway.services import Services
from reentry.schema import ENSEMBLE, MEASUREMENT_COLUMNS

router = APIRouter(tags=["tracks"])

_IN_THREAD: Final = 512 * 1024
"""Bytes of a body from which on it is read in a thread, so that other requests are not held up."""
_PROBABILITY_COLUMNS: Final = ("timestamp", "latitude", "longitude", "altitude")
_COLUMNS: Final = {name: MEASUREMENT_COLUMNS.index(name) for name in _PROBABILITY_COLUMNS}
_CACHED: Final = metrics.TRACKS.labels("cached")


@router.post("/tracks:score")
async def score_tracks(
    request: Request,
    principal: Annotated[Principal, require(Scope.SCORE)],
    services: ServicesOf,
    context: ContextOf,
    model: Annotated[
        str, Query(description="`reentry`, or `reentry_fast` without the comparison with the training.")
    ] = (ENSEMBLE.name),
    result: Annotated[str, Query(description="Table of the answer: `rows` or `tracks`.")] = RESULTS[0],
    content_type: Annotated[str | None, Header()] = None,
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """Score every track of the body."""
    begun = time.perf_counter()
    _check_choice("model", model, MODELS)
    _check_choice("result", result, RESULTS)
    sent_type = media_type_of(content_type)
    media_type = accepted_type(accept, sent_type)
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
    file = await asyncio.to_thread(read_body, body, sent_type) if len(body) > _IN_THREAD else read_body(body, sent_type)
    with file:
        tracks = list(file)
        steps = sum(map(len, tracks))
        await services.limits.charge_steps(principal, steps, context)
        scored = await while_connected(request, services.scorer.score(principal, tracks, MODELS[model], content))
        counted(scored)
        metrics.TRACKS.labels("refused").inc(len(file.report.set_aside))
        answer = answer_of(file, scored)
        rows = _log_rows(scored)
        _record(services, principal, context, rows, scored, answer, seconds=time.perf_counter() - begun)
        if not answer.tracks:
            raise _no_track(answer)
        headers = _headers(answer)
        encoded = encode(answer, file, scored, media_type, result)
    _publish(services, principal, scored)
    versions = {track.model_version for track in answer.tracks}
    if is_shared and not answer.degraded and len(versions) == 1 and (version := versions.pop()) is not None:
        kept = CachedAnswer(encoded, headers, steps, len(answer.refused), rows)
        await services.cache.put(key, version, kept)
    return Response(encoded, headers={**headers, "x-cache": "miss"}, media_type=media_type)


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise Problem(
            "invalid-value",
            f"unknown {name}",
            where=f"query parameter {name}",
            expected=" or ".join(choices),
            got=value,
        )


def _headers(answer: Answer) -> dict[str, str]:
    versions = sorted({str(track.model_version or "none") for track in answer.tracks})
    return {
        "x-model-version": ", ".join(versions),
        "x-tracks-refused": str(len(answer.refused)),
        "x-degraded": str(answer.degraded).lower(),
    }


def _log_rows(scored: Sequence[ScoredTrack]) -> list[dict[str, Any]]:
    return [_row(each, each.outcome, each.model) for each in scored if isinstance(each.outcome, Score)]


def _row(each: ScoredTrack, score: Score, model: str) -> dict[str, Any]:
    row = of_track(
        each.track.track_id,
        each.track.measurements,
        largest_probability=float(score.probability.max()),
        onset_timestamp=score.onset_timestamp,
        refined_onset_timestamp=None if score.refinement is None else score.refinement.timestamp,
        model=model,
        model_version=score.model_version or None,
    )
    return row | {"degraded": score.model_version == 0}


def _record(
    services: Services,
    principal: Principal,
    context: RequestContext,
    rows: Sequence[dict[str, Any]],
    scored: Sequence[ScoredTrack],
    answer: Answer,
    *,
    seconds: float,
) -> None:
    """Log the answered tracks, and later those that a challenger scores beside them."""
    request_id = context.request_id
    answered = [each for each in scored if isinstance(each.outcome, Score)]
    logged = []
    for row, each in zip(rows, answered, strict=True):
        logged.append(row | of_request(principal, request_id, seconds=seconds) | _part(each, shadow=False))
        if each.shadow is not None:
            each.shadow.add_done_callback(partial(_record_shadow, services, principal, request_id, each))
    services.log.record(logged, account_id=principal.account_id, refused=len(answer.refused))


def _part(each: ScoredTrack, *, shadow: bool) -> dict[str, Any]:
    """Return the fields of an experiment."""
    if each.assignment is None:
        return {}
    variant = "challenger" if shadow else str(each.assignment.variant)
    metrics.EXPERIMENT_TRACKS.labels(each.assignment.experiment_id, variant).inc()
    return {"experiment_id": each.assignment.experiment_id, "variant": variant, "shadow": shadow}


def _record_shadow(
    services: Services, principal: Principal, request_id: str, each: ScoredTrack, task: asyncio.Task[Any]
) -> None:
    """Log the answer of a challenger. Its failure is nobody's matter."""
    if task.cancelled() or task.exception() is not None or not isinstance(task.result(), Score):
        return
    score: Score = task.result()
    assert each.assignment is not None
    assert each.assignment.shadow is not None
    row = _row(each, score, each.assignment.shadow.model)
    row |= of_request(principal, request_id, seconds=score.inference_seconds) | _part(each, shadow=True)
    services.log.record([row], account_id=principal.account_id)


def _publish(services: Services, principal: Principal, scored: Sequence[ScoredTrack]) -> None:
    """Send the scored tracks to the readers of the account's events."""
    if not services.events.has_readers(principal.account_id):
        return
    for each in scored:
        if isinstance(each.outcome, Score):
            columns = {name: each.track.measurements[:, place] for name, place in _COLUMNS.items()}
            services.events.publish_track(
                principal.account_id,
                track_id=each.track.track_id,
                columns=columns | {"probability": each.outcome.probability, "phase": each.outcome.phase},
                onset_timestamp=each.outcome.onset_timestamp,
                model_version=each.outcome.model_version or None,
                degraded=each.outcome.model_version == 0,
            )


def _no_track(answer: Answer) -> Problem:
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
