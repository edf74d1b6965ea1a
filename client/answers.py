"""Checks of a server's answer: shapes, types, value ranges, and that its tensors agree with each other and the tracks.

An invalid answer must end the run, because its numbers would look like results.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import numpy as np

from client.batching import RequestBatch
from client.connection import Array
from reentry.decision import NO_ONSET, onset_of
from reentry.errors import ClientError
from reentry.refinement import LONGEST_HINDSIGHT
from reentry.schema import (
    HINDSIGHT,
    MODEL_VERSION,
    NO_ONSET_TIMESTAMP,
    NOT_REFINED,
    ONSET_STEP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    REFINED_DEVIATION,
    REFINED_ONSET,
    Tensor,
)
from reentry.tracks import Track

Fault = tuple[str, str, object]
"""One fault of an answer: the tensor and where in it, the expected value, the value found."""
_REFINEMENT: Final = (REFINED_ONSET, REFINED_DEVIATION, HINDSIGHT)


def require_answer(batch: RequestBatch, answer: Mapping[str, Array], *, where: str) -> None:
    """Check that an answer is one that a server of these models can give.

    Args:
        batch: the tracks of the request.
        answer: output tensors by name.
        where: address of the server.

    Raises:
        ClientError: the answer is invalid; the error names the first faulty tensor and its track.
    """
    fault = next(_faults(batch, answer), None)
    if fault is not None:
        what, expected, got = fault
        raise ClientError(
            f"the server's answer is invalid: {what}",
            where=where,
            expected=expected,
            got=str(got),
            fix="give the address of a server that serves the models of this version with --url",
        )


def _faults(batch: RequestBatch, answer: Mapping[str, Array]) -> Iterator[Fault]:
    """Find faults one by one; each check relies on the checks before it, so only the first fault is meaningful."""
    tracks, steps = len(batch), batch.longest
    for tensor in batch.model.outputs:
        yield from _form_faults(tensor, answer.get(tensor.name), tracks, steps)
    lowest, highest = answer[MODEL_VERSION.name].min(), answer[MODEL_VERSION.name].max()
    if lowest < 1:
        yield MODEL_VERSION.name, "at least 1", lowest
    if lowest != highest:
        yield MODEL_VERSION.name, "one version for the whole request", f"{lowest} and {highest}"
    if _tracks_are_valid(batch, answer):
        return
    for index, track in enumerate(batch.tracks):
        yield from _track_faults(track, {name: values[index] for name, values in answer.items()})


def _tracks_are_valid(batch: RequestBatch, answer: Mapping[str, Array]) -> bool:
    """Whether `_track_faults` finds nothing: its checks over all tracks at once, which is much faster."""
    probability, phase = answer[PROBABILITY.name], answer[PHASE.name]
    if not (probability.min() >= 0.0 and probability.max() <= 1.0 and phase.max() <= 1):
        return False
    in_reentry = (phase != 0) & (np.arange(phase.shape[1]) < batch.lengths())
    onset = np.where(in_reentry.any(axis=1), in_reentry.argmax(axis=1), NO_ONSET)
    timestamp = [
        NO_ONSET_TIMESTAMP if step == NO_ONSET else track.timestamp[step]
        for track, step in zip(batch.tracks, onset.tolist(), strict=True)
    ]
    if (answer[ONSET_STEP.name][:, 0] != onset).any() or (answer[ONSET_TIMESTAMP.name][:, 0] != timestamp).any():
        return False
    if REFINED_ONSET.name not in answer:
        return True
    refined, deviation, hindsight = values = [answer[tensor.name][:, 0] for tensor in _REFINEMENT]
    unknown = np.array([each == NOT_REFINED for each in values])
    known = (
        (onset != NO_ONSET)
        & ~unknown.any(axis=0)
        & np.isfinite(refined)
        & (deviation > 0.0)
        & (deviation < math.inf)
        & (hindsight >= 0.0)
        & (hindsight <= LONGEST_HINDSIGHT)
    )
    return bool((unknown.all(axis=0) | known).all())


def _form_faults(tensor: Tensor, values: Array | None, tracks: int, steps: int) -> Iterator[Fault]:
    if values is None:
        yield tensor.name, "a tensor of this name", "none"
        return
    shape = (tracks, *[steps if size == -1 else size for size in tensor.dims])
    dtype = _numpy_type(tensor.dtype)
    if values.shape != shape or values.dtype != dtype:
        yield tensor.name, f"shape {shape} of {dtype}", f"shape {values.shape} of {values.dtype}"


@cache
def _numpy_type(name: str) -> np.dtype[Any]:
    """Return the numpy type of one of Triton's types."""
    from tritonclient.utils import triton_to_np_dtype

    # The type that the protocol calls BYTES is called STRING in config.pbtxt.
    return np.dtype(object if name == "STRING" else triton_to_np_dtype(name))


def _track_faults(track: Track, outputs: Mapping[str, Array]) -> Iterator[Fault]:
    """Find faults in the outputs of one track, which are (T,) or (1,)."""
    of_track = f"of track {track.track_id}"
    probability, phase = outputs[PROBABILITY.name], outputs[PHASE.name]
    for name, values, valid, expected in (
        (PROBABILITY.name, probability, (probability >= 0.0) & (probability <= 1.0), "a number from 0 to 1"),
        (PHASE.name, phase, phase <= 1, "0 or 1"),
    ):
        if not valid.all():
            step = int(valid.argmin())
            yield f"{name} {of_track}, step {step}", expected, values[step]
    onset = int(onset_of(phase[: len(track)]))
    onset_step, onset_timestamp = int(outputs[ONSET_STEP.name][0]), float(outputs[ONSET_TIMESTAMP.name][0])
    if onset == NO_ONSET:
        timestamp, expected_step, expected_time = (
            NO_ONSET_TIMESTAMP,
            f"{NO_ONSET}, no onset",
            f"{NO_ONSET_TIMESTAMP:g}, no onset",
        )
    else:
        timestamp = float(track.timestamp[onset])
        expected_step = f"{onset}, the first of {len(track)} steps in phase 1"
        expected_time = f"{timestamp:.15g}, the time of step {onset}"
    if onset_step != onset:
        yield f"{ONSET_STEP.name} {of_track}", expected_step, onset_step
    if onset_timestamp != timestamp:
        yield f"{ONSET_TIMESTAMP.name} {of_track}", expected_time, onset_timestamp
    if REFINED_ONSET.name in outputs:
        yield from _refinement_faults(of_track, outputs, has_onset=onset != NO_ONSET)


def _refinement_faults(of_track: str, outputs: Mapping[str, Array], *, has_onset: bool) -> Iterator[Fault]:
    """Find faults in the refined onset of one track."""
    refined, deviation, hindsight = values = [float(outputs[tensor.name][0]) for tensor in _REFINEMENT]
    unknown = f"{NOT_REFINED:g}, unknown"
    if not has_onset or NOT_REFINED in values:
        reason = "as the rest of the refined onset" if has_onset else "without an onset"
        for tensor, value in zip(_REFINEMENT, values, strict=True):
            if value != NOT_REFINED:
                yield f"{tensor.name} {of_track}", f"{unknown}, {reason}", value
        return
    for tensor, value, valid, expected in (
        (REFINED_ONSET, refined, math.isfinite(refined), "a finite time"),
        (REFINED_DEVIATION, deviation, 0.0 < deviation < math.inf, "a positive number"),
        (HINDSIGHT, hindsight, 0.0 <= hindsight <= LONGEST_HINDSIGHT, f"0 to {LONGEST_HINDSIGHT:g} s"),
    ):
        if not valid:
            yield f"{tensor.name} {of_track}", f"{expected}, or {unknown}", value
