"""Rows of the inference log for the tracks of a KServe request.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.accounts.principal import Principal
from gateway.comparison.drift import feature_numbers
from gateway.inference_log.track_row import of_request, of_track
from gateway.kserve.requests import Array, InferRequest
from reentry.schema import (
    MODEL_VERSION,
    NO_ONSET_TIMESTAMP,
    NOT_REFINED,
    ONSET_TIMESTAMP,
    PROBABILITY,
    REFINED_ONSET,
)


def rows_of(
    request: InferRequest, answer: Mapping[str, Array], principal: Principal, request_id: str, *, seconds: float
) -> list[dict[str, Any]]:
    """Return the row of each track.

    Args:
        request: the request.
        answer: outputs of the model by tensor name, which `encode` accepted.
        principal: sender of the request.
        request_id: id of the HTTP request.
        seconds: time to answer, s.
    """
    onset = answer[ONSET_TIMESTAMP.name]
    refined = answer.get(REFINED_ONSET.name)
    probability, version = answer[PROBABILITY.name], answer[MODEL_VERSION.name]
    track_ids, lengths = request.track_id[:, 0].tolist(), request.track_length[:, 0].tolist()
    tracks = [rows[:length] for rows, length in zip(request.measurements, lengths, strict=True)]
    rows = []
    for track, quantities in enumerate(feature_numbers(tracks, track_ids)):
        row = of_track(
            track_ids[track],
            tracks[track],
            largest_probability=float(probability[track, : lengths[track]].max()),
            onset_timestamp=_known(onset, track, NO_ONSET_TIMESTAMP),
            refined_onset_timestamp=None if refined is None else _known(refined, track, NOT_REFINED),
            model=request.model.name,
            model_version=int(version[track, 0]),
            quantities=quantities,
        )
        rows.append(row | of_request(principal, request_id, seconds=seconds))
    return rows


def _known(values: Array, track: int, unknown: float) -> float | None:
    value = float(values[track, 0])
    return None if value == unknown else value
