"""Checks of a server's answer: shapes, types, ranges, and that its parts agree with each other and with the tracks.

A server that answers nonsense must end the run. Its numbers would look like results otherwise.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from client.batching import RequestBatch
from client.connection import Array
from reentry.decision import NO_ONSET, onset_of
from reentry.errors import ClientError
from reentry.schema import (
    ENSEMBLE,
    MODEL_VERSION,
    NO_ONSET_TIMESTAMP,
    ONSET_STEP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    Tensor,
)
from reentry.tracks import Track

_FIX: Final = "give the address of a server of this version's models with --url"


def require_answer(batch: RequestBatch, answer: Mapping[str, Array | None], *, where: str) -> None:
    """Refuse an answer that no server of these models gives.

    Args:
        batch: the tracks that were asked for.
        answer: output tensors by name; None is a tensor that is missing.
        where: the server's address.

    Raises:
        ClientError: names the first tensor that is wrong, its track, what was expected and what it holds.
    """
    try:
        for tensor in ENSEMBLE.outputs:
            _require_form(tensor, answer.get(tensor.name), batch)
        _require_versions(_values(answer, MODEL_VERSION)[:, 0])
        for index, track in enumerate(batch.tracks):
            _require_track(
                track,
                probability=_values(answer, PROBABILITY)[index],
                phase=_values(answer, PHASE)[index],
                onset_step=int(_values(answer, ONSET_STEP)[index, 0]),
                onset_timestamp=float(_values(answer, ONSET_TIMESTAMP)[index, 0]),
            )
    except _InvalidError as error:
        raise ClientError(
            f"the server's answer is invalid: {error.what}",
            where=where,
            expected=error.expected,
            got=error.got,
            fix=_FIX,
        ) from None


class _InvalidError(Exception):
    """One wrong part of an answer."""

    def __init__(self, what: str, expected: str, got: object) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.got = str(got)


def _values(answer: Mapping[str, Array | None], tensor: Tensor) -> Array:
    values = answer[tensor.name]
    assert values is not None  # its form was checked
    return values


def _require_form(tensor: Tensor, values: Array | None, batch: RequestBatch) -> None:
    from tritonclient.utils import triton_to_np_dtype

    if values is None:
        raise _InvalidError(tensor.name, "a tensor of this name", "none")
    shape = (len(batch), *(batch.longest if size == -1 else size for size in tensor.dims))
    # config.pbtxt says STRING for what the protocol calls BYTES.
    dtype = np.dtype(object if tensor.dtype == "STRING" else triton_to_np_dtype(tensor.dtype))
    if values.shape != shape or values.dtype != dtype:
        raise _InvalidError(tensor.name, f"shape {shape} of {dtype}", f"shape {values.shape} of {values.dtype}")


def _require_versions(versions: Array) -> None:
    if versions.min() < 1:
        raise _InvalidError(MODEL_VERSION.name, "at least 1", versions.min())
    if versions.min() != versions.max():
        raise _InvalidError(
            MODEL_VERSION.name, "one version for the whole request", f"{versions.min()} and {versions.max()}"
        )


def _require_track(track: Track, *, probability: Array, phase: Array, onset_step: int, onset_timestamp: float) -> None:
    whose = f"of track {track.track_id}"
    for name, values, valid, expected in (
        (PROBABILITY.name, probability, (probability >= 0.0) & (probability <= 1.0), "a number from 0 to 1"),
        (PHASE.name, phase, phase <= 1, "0 or 1"),
    ):
        if not valid.all():
            step = int(valid.argmin())
            raise _InvalidError(f"{name} {whose}, step {step}", expected, values[step])
    found = int(onset_of(phase[: len(track)]))
    if onset_step != found:
        expected = (
            f"{found}, the first step of {len(track)} in phase 1" if found != NO_ONSET else f"{NO_ONSET}, no onset"
        )
        raise _InvalidError(f"{ONSET_STEP.name} {whose}", expected, onset_step)
    at = NO_ONSET_TIMESTAMP if found == NO_ONSET else float(track.timestamp[found])
    if onset_timestamp != at:
        raise _InvalidError(f"{ONSET_TIMESTAMP.name} {whose}", f"{at:.15g}, the time of step {found}", onset_timestamp)
