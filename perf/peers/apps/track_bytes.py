"""Tracks and answers as raw bytes, the body of the frameworks that prescribe no format.

A request is the measurements of one track, (T, M) float64. An answer is the outputs of `schema.REENTRY_TRACK`, one
after another, without padding. All numbers are little-endian.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_TRACK

Array = npt.NDArray[Any]

MEDIA_TYPE: Final = "application/octet-stream"

DTYPES: Final = {"FP32": "<f4", "FP64": "<f8", "UINT8": "u1", "INT32": "<i4", "INT64": "<i8"}
"""numpy type of each Triton type."""


def pack_measurements(measurements: Array) -> bytes:
    """Measurements of one track (T, M) -> request."""
    return measurements.astype("<f8").tobytes()


def unpack_measurements(content: bytes) -> Array:
    """Request -> measurements (1, T, M), read-only."""
    return np.frombuffer(content, "<f8").reshape(1, -1, len(MEASUREMENT_COLUMNS))


def pack_answer(answer: Mapping[str, Array]) -> bytes:
    """Outputs of one track by name -> answer."""
    return b"".join(answer[tensor.name].astype(DTYPES[tensor.dtype]).tobytes() for tensor in REENTRY_TRACK.outputs)


def unpack_answer(content: bytes, steps: int) -> dict[str, Array]:
    """Answer -> outputs of one track of `steps` steps by name.

    Raises:
        ValueError: the answer has another number of bytes.
    """
    answer, at = {}, 0
    for tensor in REENTRY_TRACK.outputs:
        shape = (1, *(steps if size == -1 else size for size in tensor.dims))
        values = np.frombuffer(content, DTYPES[tensor.dtype], count=int(np.prod(shape)), offset=at)
        answer[tensor.name] = values.reshape(shape)
        at += values.nbytes
    if at != len(content):
        raise ValueError(f"an answer of {len(content)} bytes; expected {at}")
    return answer
