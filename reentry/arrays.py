"""Array operations that the standard array functions lack, for numpy arrays and for the tensors of other libraries.

Features and the decision are written once, with the functions of the Python array API standard (array-api-compat). On
numpy arrays they compute the features of training, of Triton's Python models and of live streams. The exporter traces
the same functions with tensors, which gives the ONNX graph from measurements to onsets.

A traced function must meet two conditions. A slice may not contain the number of steps T, because the trace would keep
that number: count from the start or from the end of an axis. And no branch may depend on the values of an array.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Final

import array_api_compat
import array_api_compat.numpy
import numpy as np

Array = Any
"""An array of numpy, or a tensor of a library that follows the array API standard."""

_BLOCK: Final = 128
"""Number of steps in a block of `_maximum_by_blocks`."""


def namespace(x: Array) -> ModuleType:
    """The functions of the standard for the library of an array."""
    if isinstance(x, np.ndarray):  # `array_namespace` takes as long as a small operation
        return array_api_compat.numpy
    found: ModuleType = array_api_compat.array_namespace(x)
    return found


def converted(x: Array, dtype: str) -> Array:
    """The array with another type, such as "float32"."""
    xp = namespace(x)
    return xp.astype(x, getattr(xp, dtype))


def clipped(x: Array, low: float, high: float) -> Array:
    """The values, limited to a range; NaN stays."""
    xp = namespace(x)
    return xp.minimum(xp.maximum(x, low), high)


def columns_of(table: Array) -> list[Array]:
    """The columns of tables, (B, N, M) -> M of (B, N), each contiguous in memory."""
    columns = [table[:, :, column] for column in range(table.shape[-1])]
    return [np.ascontiguousarray(x) for x in columns] if isinstance(table, np.ndarray) else columns


def step_numbers(x: Array) -> Array:
    """Numbers of the steps 0, 1, ..., T - 1 of each track: (B, T) -> (B, T) int64."""
    xp = namespace(x)
    return xp.cumulative_sum(xp.ones_like(x, dtype=xp.int64), axis=-1) - 1


def up_to(condition: Array) -> Array:
    """Whether a condition holds at each step and at all steps before it: (B, T) -> (B, T) bool."""
    xp = namespace(condition)
    return xp.cumulative_sum(converted(~condition, "int32"), axis=-1) == 0


def quotient(dividend: Array, divisor: Array, where: Array) -> Array:
    """Divide where a condition holds; the result is 0 elsewhere."""
    if isinstance(divisor, np.ndarray):
        return np.divide(dividend, divisor, out=np.zeros_like(divisor), where=where)
    xp = namespace(divisor)
    return xp.where(where, dividend / xp.where(where, divisor, 1.0), 0.0)


def cosine(angle: Array) -> Array:
    """Cosine of an angle in radians, as a sine: ONNX Runtime before 1.20 has no cosine of float64."""
    return namespace(angle).sin(angle + 0.5 * math.pi)


def arsinh(x: Array) -> Array:
    """Inverse hyperbolic sine, by logarithm: ONNX Runtime has none of float64."""
    xp = namespace(x)
    size = xp.abs(x)
    return xp.sign(x) * xp.log(size + xp.sqrt(size * size + 1.0))


def running_maximum(x: Array, lowest: float) -> Array:
    """Maximum of the steps up to each step: (..., T) -> (..., T).

    Args:
        x: the values.
        lowest: a value that no element is below.
    """
    if isinstance(x, np.ndarray):
        return np.maximum.accumulate(x, axis=-1)
    return _maximum_by_blocks(x, lowest)


def _maximum_by_blocks(x: Array, lowest: float) -> Array:
    """Compute `running_maximum` with operations that ONNX has.

    Within blocks of 128 steps, the maximum over 1, 2, 4, ... steps is the maximum of two maxima over half as many. The
    result is its maximum with the largest end of the blocks before.
    """
    xp = namespace(x)
    steps = x.shape[-1]
    rows = xp.reshape(x, (-1, steps))
    padding = xp.minimum(rows[:, :1], xp.full(_BLOCK - 1, lowest, dtype=rows.dtype))  # `lowest`, for any number of rows
    padded = xp.concat([rows, padding], axis=-1)
    blocks = (steps + _BLOCK - 1) // _BLOCK
    within = xp.reshape(padded[:, : blocks * _BLOCK], (-1, blocks, _BLOCK))
    width = 1
    while width < _BLOCK:
        within = xp.concat([within[..., :width], xp.maximum(within[..., width:], within[..., :-width])], axis=-1)
        width *= 2
    end = within[..., -1]  # (rows, blocks)
    number = step_numbers(end[:1])[0]
    earlier = number[None, :] < number[:, None]
    before = xp.max(xp.where(earlier, end[:, None, :], lowest), axis=-1)
    maxima = xp.reshape(xp.maximum(within, before[..., None]), (-1, blocks * _BLOCK))[:, :steps]
    return xp.reshape(maxima, x.shape)
