"""Scores batches of tracks: several requests at once, retries, and single tracks where a batch is refused.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from client.answers import require_answer
from client.batching import RequestBatch
from client.connection import Array, Connection, RefusedError, ServerUnavailableError
from client.journal import Score
from client.retry import Retry
from client.training_comparison import unlike_training
from reentry.decision import NO_ONSET
from reentry.refinement import RefinedOnset
from reentry.schema import (
    ENSEMBLE,
    HINDSIGHT,
    MEASUREMENTS,
    MODEL_VERSION,
    NOT_REFINED,
    ONSET_STEP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    REFINED_DEVIATION,
    REFINED_ONSET,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
    UNLIKE_TRAINING,
)
from reentry.tracks import Track

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The server's reason for not scoring a track."""

    reason: str
    is_fault: bool = False
    """Whether the model failed on the track, which may be valid."""


Outcome = tuple[Track, Score | Refusal]


class _OtherModelError(Exception):
    """The model of a request is unavailable, but the server serves `reentry`."""


async def score(
    batches: Iterable[RequestBatch], connection: Connection, retry: Retry, *, concurrency: int
) -> AsyncGenerator[list[Outcome], None]:
    """Score every track of every batch; yield the outcomes of a batch as soon as its answer arrives.

    Batches are taken from the iterable only as fast as they are answered, which bounds the memory.

    Raises:
        ClientError: the server did not answer, or its answer is invalid.
    """
    in_flight: set[asyncio.Task[list[Outcome]]] = set()
    try:
        for batch in batches:
            in_flight.add(asyncio.create_task(_score_batch(batch, connection, retry)))
            if len(in_flight) >= concurrency:
                done, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        for each in asyncio.as_completed(in_flight):
            yield await each
    finally:
        for task in in_flight:
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)


async def _score_batch(batch: RequestBatch, connection: Connection, retry: Retry) -> list[Outcome]:
    inputs = inputs_of(batch)
    sent = 0.0

    async def send() -> dict[str, Array]:
        nonlocal sent
        sent = time.perf_counter()
        try:
            return await connection.infer(batch.model, inputs)
        except ServerUnavailableError as error:
            if batch.model is not ENSEMBLE and await connection.is_ready(ENSEMBLE):
                raise _OtherModelError(error.problem) from error
            raise

    try:
        answer = await retry(send)
    except _OtherModelError as error:
        _log.debug("%s is unavailable, sending the request to %s: %s", batch.model.name, ENSEMBLE.name, error)
        return await _score_batch(replace(batch, model=ENSEMBLE), connection, retry)
    except RefusedError as error:
        if len(batch) == 1 and batch.model is ENSEMBLE:
            return [(batch.tracks[0], Refusal(reason=f"refused by the server: {error.problem}"))]
        _log.debug("a request of %d tracks was refused; sending them one by one: %s", len(batch), error.problem)
        return [outcome for single in batch.singles() for outcome in await _score_batch(single, connection, retry)]
    seconds = time.perf_counter() - sent
    _log.debug("%d tracks padded to %d steps answered in %.3f s", len(batch), batch.longest, seconds)
    require_answer(batch, answer, where=str(connection.endpoint))
    return list(zip(batch.tracks, scores_of(batch, answer, seconds), strict=True))


def inputs_of(batch: RequestBatch) -> dict[str, Array]:
    """Return the inputs of a request by tensor name: measurements (B, T, M), lengths (B, 1) and track ids (B, 1)."""
    return {
        TRACK_ID_TENSOR.name: batch.track_ids(),
        TRACK_LENGTH.name: batch.lengths(),
        MEASUREMENTS.name: batch.measurements(),
    }


def scores_of(batch: RequestBatch, answer: dict[str, Array], seconds: float) -> list[Score]:
    """Split an answer, whose tensors are (B, T) and (B, 1), into one score per track without the padding."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    scores = []
    for index, track in enumerate(batch.tracks):
        onset_step = int(answer[ONSET_STEP.name][index, 0])
        scores.append(
            Score(
                track_id=track.track_id,
                onset_step=onset_step,
                onset_timestamp=None if onset_step == NO_ONSET else float(answer[ONSET_TIMESTAMP.name][index, 0]),
                refinement=_refinement(answer, index),
                model_version=int(answer[MODEL_VERSION.name][index, 0]),
                inference_seconds=round(seconds, 6),
                tracks_in_request=len(batch),
                time=now,
                probability=answer[PROBABILITY.name][index, : len(track)],
                phase=answer[PHASE.name][index, : len(track)],
                unlike_training=unlike_training(answer.get(UNLIKE_TRAINING.name), index),
            )
        )
    return scores


def _refinement(answer: dict[str, Array], index: int) -> RefinedOnset | None:
    """Return the refined onset of one track; None if it is unknown, and from a model that does not refine."""
    columns = [answer.get(tensor.name) for tensor in (REFINED_ONSET, REFINED_DEVIATION, HINDSIGHT)]
    values = [float(column[index, 0]) for column in columns if column is not None]
    return None if NOT_REFINED in values or not values else RefinedOnset(*values)
