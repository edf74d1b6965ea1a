"""Validation of inference requests before the data reaches the network.

An LSTM returns plausible numbers even for NaN, and no onset for swapped columns. So invalid requests are rejected with
the track, row and column of the first fault, in the same words as for track files.

Shapes: B tracks, T steps, K >= T steps with padding, M measurement columns, F features.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.arrays import Array, converted, namespace
from reentry.decision import NO_ONSET
from reentry.schema import (
    ENSEMBLE,
    FEATURES,
    FEATURES_TENSOR,
    INVALID,
    LARGEST_REQUEST,
    LONGEST_TRACK,
    MEASUREMENT_COLUMNS,
    MODEL_VERSION,
    NO_ONSET_TIMESTAMP,
    ONSET_STEP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    SENSOR_ID,
    STARTED_AT,
    TIMESTAMP,
    TRACK_COLUMNS,
)

LONGEST_INFERENCE: Final = 3600.0
"""Maximum time that a request can have been in the server, s. Its queues reject requests after 10 s each."""

_COLUMNS: Final = tuple(next(c for c in TRACK_COLUMNS if c.name == name) for name in MEASUREMENT_COLUMNS)
_TIME, _SENSOR = (MEASUREMENT_COLUMNS.index(c.name) for c in (TIMESTAMP, SENSOR_ID))
_LARGEST: Final = np.finfo(np.float64).max
_LOW: Final = np.array([-_LARGEST if c.low is None else c.low for c in _COLUMNS])
_HIGH: Final = np.array([_LARGEST if c.high is None else c.high for c in _COLUMNS])


def require_measurements(measurements: npt.NDArray[np.float64], track_length: npt.NDArray[np.integer[Any]]) -> None:
    """Reject measurements (B, T, M) with invalid values or too many steps.

    Within the track lengths (B,), each value must be in the range of its column, sensor ids must be whole numbers, and
    time must not decrease. Equal times are valid, since several sensors may measure at the same time. Values in the
    padding only need to be finite.

    Raises:
        ValueError: names the track, row, column and value of the first fault.
    """
    tracks, steps = measurements.shape[:2]
    if steps == 0:
        raise ValueError("expected at least one measurement, got none")
    _require_size(tracks, steps)
    require_lengths(track_length, steps)
    columns = np.ascontiguousarray(np.moveaxis(measurements, -1, 0))  # (M, B, T) is 5 times faster
    with np.errstate(invalid="ignore"):
        inside = (columns.min(axis=(1, 2)) >= _LOW) & (columns.max(axis=(1, 2)) <= _HIGH)  # False for NaN
        fractional = columns[_SENSOR] != np.floor(columns[_SENSOR])
    decreasing = columns[_TIME, :, 1:] < columns[_TIME, :, :-1]
    if inside.all() and not fractional.any() and not decreasing.any():
        return
    faulty = ~((measurements >= _LOW) & (measurements <= _HIGH))
    faulty[..., _SENSOR] |= fractional
    faulty[:, 1:, _TIME] |= decreasing
    faulty &= (np.arange(steps) < track_length[:, None])[..., None] | ~np.isfinite(measurements)
    if faulty.any():
        track, row, column = (int(index) for index in np.unravel_index(int(faulty.argmax()), faulty.shape))
        value = float(measurements[track, row, column])
        previous = float(measurements[track, row - 1, column]) if row else None
        raise ValueError(
            f"track {track} of the request, row {row}, column {MEASUREMENT_COLUMNS[column]}: "
            f"{_problem(column, value, previous)}, got {value:.15g}; "
            f"fix: give the columns in the order {', '.join(MEASUREMENT_COLUMNS)}"
        )


def _require_size(tracks: int, steps: int) -> None:
    if steps > LONGEST_TRACK:
        raise ValueError(f"expected at most {LONGEST_TRACK:,} steps of a track, padding included, got {steps:,}")
    if tracks * steps > LARGEST_REQUEST:
        raise ValueError(
            f"expected at most {LARGEST_REQUEST:,} steps in one request, padding included, got {tracks * steps:,}; "
            "fix: send fewer tracks at once"
        )


def _problem(column: int, value: float, previous: float | None) -> str:
    """Describe why a value is invalid, given the previous value in its column."""
    declared = _COLUMNS[column]
    if not np.isfinite(value):
        return "not finite"
    if value < _LOW[column]:
        return declared.too_low
    if value > _HIGH[column]:
        return declared.too_high
    if column == _SENSOR:
        return "not a whole number"
    return f"time runs backwards, from {previous:.15g} in the row before"


def require_timestamps(timestamp: npt.NDArray[np.float64], track_length: npt.NDArray[np.integer[Any]]) -> None:
    """Reject timestamps (B, T) outside the range of their column, within the track lengths (B,).

    Raises:
        ValueError: names the track, row and value of the first fault.
    """
    faulty = ~((timestamp >= _LOW[_TIME]) & (timestamp <= _HIGH[_TIME]))
    faulty &= np.arange(timestamp.shape[1]) < track_length[:, None]
    if faulty.any():
        track, row = np.unravel_index(int(faulty.argmax()), faulty.shape)
        value = float(timestamp[track, row])
        raise ValueError(
            f"track {track} of the request, row {row}, column {TIMESTAMP.name}: {_problem(_TIME, value, None)}, "
            f"got {value:.15g}"
        )


def valid_steps(columns: Array, track_length: Array) -> Array:
    """Whether each step has no fault, by the rules of `require_measurements` for values and lengths.

    The graph from measurements to onsets contains this function, because it has no other way to refuse a request. The
    rules apply to the padding too.

    Args:
        columns: measurements with the columns first, (M, B, T) float64, also NaN or infinite.
        track_length: number of steps of each track, (B, 1).

    Returns:
        (B, T) bool. A track with an invalid length has no valid step.
    """
    xp = namespace(columns)
    low, high = (xp.asarray(limits, dtype=xp.float64)[:, None, None] for limits in (_LOW.tolist(), _HIGH.tolist()))
    inside = xp.min(converted((columns >= low) & (columns <= high), "uint8"), axis=0) == 1  # False for NaN
    time, sensor = columns[_TIME], columns[_SENSOR]
    forwards = time >= xp.concat([time[:, :1], time[:, :-1]], axis=1)
    in_length = (track_length >= 1) & (track_length <= time.shape[-1])
    return inside & forwards & (sensor == xp.floor(sensor)) & in_length


def require_features(features: npt.NDArray[np.float32]) -> None:
    """Reject features (B, T, F) that are not finite because the measurements are too large for float32.

    Raises:
        ValueError: names the track, row and feature of the first fault.
    """
    finite = np.isfinite(features)
    if not finite.all():
        track, row, column = np.unravel_index(int(finite.argmin()), features.shape)
        raise ValueError(
            f"track {track} of the request, row {row}, column {FEATURES[column]}: feature does not fit in float32, "
            f"got {features[track, row, column]}"
        )


def require_lengths(track_length: npt.NDArray[np.integer[Any]], steps: int) -> None:
    """Reject track lengths (B,) outside 1 to `steps`.

    Raises:
        ValueError: names the track and its length.
    """
    for track, length in enumerate(track_length.tolist()):
        if not 1 <= length <= steps:
            raise ValueError(
                f"track {track} of the request: expected track_length from 1 to {steps}, the steps of measurements, "
                f"got {length}"
            )


def is_probability(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return which values (...) are from 0 to 1; NaN is not."""
    valid: npt.NDArray[np.bool_] = (values >= 0.0) & (values <= 1.0)
    return valid


def cause_of(probability: float) -> str:
    """Return the likely cause of an invalid probability for an error message; empty if it is unknown."""
    if math.isfinite(probability):
        return ""
    return (
        "; likely cause: features that the network uses were not computed; fix: install the package numba in the "
        "server's Python if the network uses orbit features"
    )


def require_decidable(
    probability: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32],
    model_version: npt.NDArray[np.integer[Any]],
    started_at: npt.NDArray[np.float64],
    *,
    steps: int,
    now: float,
) -> None:
    """Reject inputs of `track_decision` that the ensemble never produces but a direct call to the model may contain.

    Args:
        probability: output of the network, (B, K).
        features: features, (B, K, F).
        model_version: version of the network, (B,).
        started_at: start of the inference on the server's monotonic clock, (B,), s.
        steps: number of steps T of the measurements.
        now: current time on the same clock, s.

    Raises:
        ValueError: names the tensor, the expected values and the actual ones.
    """
    for tensor, values in ((PROBABILITY, probability), (FEATURES_TENSOR, features)):
        if values.shape[1] < steps:
            raise ValueError(
                f"{tensor.name}: expected at least the {steps} steps of measurements, got {values.shape[1]}"
            )
    valid = is_probability(probability[:, :steps])
    if not valid.all():
        track, row = np.unravel_index(int(valid.argmin()), valid.shape)
        raise ValueError(
            f"track {track} of the request, row {row}: expected {PROBABILITY.name} from 0 to 1, "
            f"got {probability[track, row]}{cause_of(probability[track, row])}"
        )
    _require_one_version(model_version)
    if not ((started_at <= now) & (started_at >= now - LONGEST_INFERENCE)).all():
        raise ValueError(
            f"{STARTED_AT.name}: expected a time of the server's monotonic clock ({now:.3f} s now), not in the future "
            f"and at most {LONGEST_INFERENCE:,.0f} s ago, got {started_at.tolist()}"
        )


def _require_one_version(model_version: npt.NDArray[np.integer[Any]]) -> None:
    versions = set(model_version.tolist())
    if len(versions) > 1 or min(versions) < 1:
        raise ValueError(
            f"{MODEL_VERSION.name}: expected one version for the whole request, at least 1, "
            f"got {min(versions)} to {max(versions)}"
        )


def require_scored(
    phase: npt.NDArray[np.uint8],
    track_length: npt.NDArray[np.integer[Any]],
    onset_step: npt.NDArray[np.integer[Any]],
    onset_timestamp: npt.NDArray[np.float64],
    model_version: npt.NDArray[np.integer[Any]],
) -> None:
    """Reject an answer of `reentry_track` that has an invalid track, and inputs of `track_monitor` that it never gives.

    Values in the padding do not matter.

    Args:
        phase: phase, (B, T).
        track_length: number of steps of each track, (B,).
        onset_step: onset of each track, (B,).
        onset_timestamp: Unix time of the onset, (B,), s.
        model_version: version of the network, (B,).

    Raises:
        ValueError: names the first invalid track and the row of its fault, or the tensor with an impossible value.
    """
    steps = phase.shape[1]
    _require_size(len(phase), steps)
    require_lengths(track_length, steps)
    _require_one_version(model_version)
    if phase.max() > 1:
        faulty = (phase > 1) & (np.arange(steps) < track_length[:, None])
        if faulty.any():
            track, row = (int(index) for index in np.unravel_index(int(faulty.argmax()), faulty.shape))
            if phase[track, row] == INVALID[PHASE.name]:
                raise ValueError(
                    f"track {track} of the request: invalid from row {row} on; fix: send the track to the model "
                    f"{ENSEMBLE.name}, which names the invalid column and value"
                )
            raise ValueError(
                f"track {track} of the request, row {row}: expected {PHASE.name} 0 or 1, got {phase[track, row]}"
            )
    earliest, latest = float(_LOW[_TIME]), float(_HIGH[_TIME])
    values = zip(track_length.tolist(), onset_step.tolist(), onset_timestamp.tolist(), strict=True)
    for track, (length, step, timestamp) in enumerate(values):
        if step == NO_ONSET and timestamp == NO_ONSET_TIMESTAMP:
            continue
        if not (0 <= step < length and earliest <= timestamp <= latest):
            raise ValueError(
                f"track {track} of the request: expected {ONSET_STEP.name} {NO_ONSET} and {ONSET_TIMESTAMP.name} "
                f"{NO_ONSET_TIMESTAMP:g}, or a step below {length} and its Unix time, got {step} and {timestamp:.15g}"
            )
