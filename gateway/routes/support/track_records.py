"""What is kept of an answer: rows of the inference log, and events for the live page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from client.journal import Score
from gateway import metrics
from gateway.accounts.principal import Principal
from gateway.comparison.drift import feature_numbers
from gateway.context import RequestContext
from gateway.inference_log.track_row import of_request, of_track
from gateway.scoring.answers import Answer
from gateway.scoring.scorer import ScoredTrack
from gateway.services import Services
from reentry.schema import MEASUREMENT_COLUMNS

_COLUMNS: Final = {name: MEASUREMENT_COLUMNS.index(name) for name in ("timestamp", "latitude", "longitude", "altitude")}


def log_rows(scored: Sequence[ScoredTrack]) -> list[dict[str, Any]]:
    """Return the rows of the scored tracks, without the fields of one request."""
    answered = [(each, each.outcome) for each in scored if isinstance(each.outcome, Score)]
    quantities = _quantities([each for each, _ in answered])
    return [_row(each, score, each.model, found) for (each, score), found in zip(answered, quantities, strict=True)]


def _quantities(tracks: Sequence[ScoredTrack]) -> list[dict[str, float]]:
    return feature_numbers([each.track.measurements for each in tracks], [each.track.track_id for each in tracks])


def _row(each: ScoredTrack, score: Score, model: str, quantities: dict[str, float]) -> dict[str, Any]:
    row = of_track(
        each.track.track_id,
        each.track.measurements,
        largest_probability=float(score.probability.max()),
        onset_timestamp=score.onset_timestamp,
        refined_onset_timestamp=None if score.refinement is None else score.refinement.timestamp,
        model=model,
        model_version=score.model_version or None,
        quantities=quantities,
    )
    return row | {"degraded": score.model_version == 0}


def record(
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
            each.shadow.add_done_callback(partial(_record_shadow, services, principal, logged[-1], each))
    services.log.record(logged, account_id=principal.account_id, refused=len(answer.refused))


def _part(each: ScoredTrack, *, shadow: bool) -> dict[str, Any]:
    """Return the fields of an experiment."""
    if each.assignment is None:
        return {}
    variant = "challenger" if shadow else str(each.assignment.variant)
    metrics.EXPERIMENT_TRACKS.labels(each.assignment.experiment_id, variant).inc()
    return {"experiment_id": each.assignment.experiment_id, "variant": variant, "shadow": shadow}


def _record_shadow(
    services: Services, principal: Principal, control: dict[str, Any], each: ScoredTrack, task: asyncio.Task[Any]
) -> None:
    """Log the answer of a challenger beside that of the control. If it failed, there is nothing to log."""
    if task.cancelled() or task.exception() is not None or not isinstance(task.result(), Score):
        return
    score: Score = task.result()
    assert each.assignment is not None
    assert each.assignment.shadow is not None
    row = _row(each, score, each.assignment.shadow.model, _quantities([each])[0])
    row |= of_request(principal, control["request_id"], seconds=score.inference_seconds) | _part(each, shadow=True)
    services.log.record([row | {"control_id": control["id"]}], account_id=principal.account_id)


def publish(services: Services, principal: Principal, scored: Sequence[ScoredTrack]) -> None:
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
