"""The row of the inference log for one answered track.

Shapes: T steps, M measurement columns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gateway.ids import new_id
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, TIMESTAMP

if TYPE_CHECKING:
    from gateway.accounts.principal import Principal

_TIME, _ALTITUDE = (MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, ALTITUDE))


def of_request(principal: Principal, request_id: str, *, seconds: float) -> dict[str, Any]:
    """Return the fields of one track that differ between two requests with it.

    Args:
        principal: sender of the request.
        request_id: id of the request.
        seconds: time to answer, s.
    """
    return {
        "id": new_id("trk"),
        "account_id": principal.account_id,
        "key_id": principal.key_id,
        "request_id": request_id,
        "at": time.time(),
        "seconds": seconds,
    }


def of_track(
    track_id: int,
    measurements: npt.NDArray[np.float64],
    *,
    largest_probability: float,
    onset_timestamp: float | None,
    refined_onset_timestamp: float | None,
    model: str,
    model_version: int | None,
    quantities: Mapping[str, float],
) -> dict[str, Any]:
    """Return the other fields of a row.

    Args:
        track_id: number of the track.
        measurements: its measurements, (T, M).
        largest_probability: largest probability of reentry of its steps.
        onset_timestamp: Unix time of the onset, s; None without one.
        refined_onset_timestamp: the same by the measurements after the alarm.
        model: name of the model.
        model_version: version of the network; None for the altitude-fraction rule.
        quantities: its entry of `feature_numbers`.
    """
    return {
        "track_id": track_id,
        "steps": len(measurements),
        "first_timestamp": float(measurements[0, _TIME]),
        "last_timestamp": float(measurements[-1, _TIME]),
        "peak_altitude": float(measurements[:, _ALTITUDE].max()),
        "onset_timestamp": onset_timestamp,
        "refined_onset_timestamp": refined_onset_timestamp,
        "largest_probability": largest_probability,
        "model": model,
        "model_version": model_version,
        "quantities": quantities,
    }
