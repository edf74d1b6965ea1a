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

_BLOCK: Final = 64
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
    """Numbers of the steps of tracks: (B, T) -> 0, 1, ..., T - 1, (T,) int64."""
    xp = namespace(x)
    return xp.arange(x.shape[-1], dtype=xp.int64)


def repeated(x: Array, count: int) -> Array:
    """Repeat a single step: (..., 1) -> (..., count)."""
    return np.repeat(x, count, axis=-1) if isinstance(x, np.ndarray) else x.expand(*[-1] * (x.ndim - 1), count)


def at_steps(x: Array, steps: Array) -> Array:
    """Values at given steps of each track: (B, T) and (B, N) int64 -> (B, N)."""
    # The exporter handles negative indices of `take_along_axis` with further operations, which it cannot leave out.
    return np.take_along_axis(x, steps, axis=-1) if isinstance(x, np.ndarray) else x.gather(-1, steps)


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


def latest(event: Array, number: Array, before: int) -> Array:
    """Number of the latest event up to each step.

    Args:
        event: whether there is an event, (..., T); (B, T) for tensors.
        number: integers that increase along the steps of each track, (..., T), all above `before`.
        before: the result before the first event.
    """
    xp = namespace(event)
    numbers = xp.where(event, number, before)
    if isinstance(event, np.ndarray):
        return np.maximum.accumulate(numbers, axis=-1)
    if event.shape[-1] == 1:
        return numbers
    # ONNX has no running maximum, but a cumulative sum: event k of a track is written to entry k of a table.
    count = xp.cumulative_sum(converted(event, "int64"), axis=-1)
    table = xp.concat([xp.full_like(numbers[:, :1], before), numbers], axis=-1)
    return table.scatter(-1, xp.where(event, count, 0), numbers).gather(-1, count)


def running_maximum(x: Array, lowest: float) -> Array:
    """Maximum of the steps up to each step: (B, T) -> (B, T).

    Args:
        x: the values.
        lowest: a value that no element is below.
    """
    if isinstance(x, np.ndarray):
        return np.maximum.accumulate(x, axis=-1)
    return x if x.shape[-1] == 1 else _maximum_by_blocks(x, lowest)


def _maximum_by_blocks(x: Array, lowest: float) -> Array:
    """Compute `running_maximum` with operations that ONNX has.

    The maximum over 1, 2, 4, ..., 64 steps is the maximum of two maxima over half as many. The result is its maximum
    with the largest of the whole blocks of 64 steps before.
    """
    xp = namespace(x)
    start = xp.full_like(x[:, :1], lowest)
    recent = xp.concat([repeated(start, _BLOCK - 1), x], axis=-1)
    width = 1
    while width < _BLOCK:
        recent = xp.maximum(recent[:, width:], recent[:, :-width])
        width *= 2
    blocks = xp.concat([start, recent[:, _BLOCK - 1 :: _BLOCK]], axis=-1)
    number = step_numbers(blocks)
    earlier = xp.max(xp.where(number <= number[:, None], blocks[:, None, :], lowest), axis=-1)
    earlier = earlier[:, :, None].expand(-1, -1, _BLOCK).flatten(1)[:, : x.shape[-1]]
    return xp.maximum(recent, earlier)
