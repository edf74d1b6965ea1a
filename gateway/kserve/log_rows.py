"""Rows of the inference log for the tracks of a KServe request.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.accounts.principal import Principal
from gateway.ids import new_id
from gateway.kserve.requests import Array, InferRequest
from reentry.schema import (
    ALTITUDE,
    MEASUREMENT_COLUMNS,
    MODEL_VERSION,
    NO_ONSET_TIMESTAMP,
    NOT_REFINED,
    ONSET_TIMESTAMP,
    PROBABILITY,
    REFINED_ONSET,
    TIMESTAMP,
)

_TIME, _ALTITUDE = (MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, ALTITUDE))


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
    now = time.time()
    onset = answer[ONSET_TIMESTAMP.name]
    refined = answer.get(REFINED_ONSET.name)
    rows = []
    for track, length in enumerate(request.track_length[:, 0].tolist()):
        steps = request.measurements[track, :length]
        rows.append(
            {
                "id": new_id("trk"),
                "account_id": principal.account_id,
                "key_id": principal.key_id,
                "request_id": request_id,
                "at": now,
                "track_id": int(request.track_id[track, 0]),
                "steps": length,
                "first_timestamp": float(steps[0, _TIME]),
                "last_timestamp": float(steps[-1, _TIME]),
                "peak_altitude": float(steps[:, _ALTITUDE].max()),
                "onset_timestamp": _known(onset, track, NO_ONSET_TIMESTAMP),
                "refined_onset_timestamp": None if refined is None else _known(refined, track, NOT_REFINED),
                "largest_probability": float(answer[PROBABILITY.name][track, :length].max()),
                "model": request.model.name,
                "model_version": int(answer[MODEL_VERSION.name][track, 0]),
                "seconds": seconds,
            }
        )
    return rows


def _known(values: Array, track: int, unknown: float) -> float | None:
    value = float(values[track, 0])
    return None if value == unknown else value
