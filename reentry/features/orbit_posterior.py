"""What the results of the orbit filter say about the onset, given how frequent each ballistic coefficient is.

The filter estimates the inverse ballistic coefficient without a prior. A prior is learned from training flights, by
speed at entry, and Bayes' rule combines both on a grid of coefficients. A body of coefficient b begins reentry when the
dynamic pressure exceeds b times the deceleration of the onset, so each weight of the grid is the probability of an
onset time.

The functions work on arrays of numpy and of other libraries, see `reentry.arrays`.

Shapes: G coefficients, R speeds, ... any shape.
"""

from __future__ import annotations

import math
from typing import Final

import array_api_compat
import numpy as np
import numpy.typing as npt

from reentry.arrays import Array, clipped, namespace

ONSET_DRAG: Final = 0.980665
"""Deceleration by drag at which reentry begins, m/s2: a tenth of standard gravity."""

COEFFICIENTS: Final = np.geomspace(20.0, 50_000.0, 128)
"""Ballistic coefficients of the grid, kg/m2, (G,)."""

DRAG_FACTORS: Final = 1e3 / COEFFICIENTS
"""Inverse coefficients in the unit of the feature `orbit_drag_factor`, 1e-3 m2/kg, (G,)."""

ONSET_PRESSURES: Final = np.log(COEFFICIENTS * ONSET_DRAG)
"""Logarithm of the dynamic pressure, Pa, at which a body of each coefficient begins reentry, (G,), rising."""

SPEEDS: Final = np.linspace(1_500.0, 7_500.0, 7)
"""Speeds at entry at which the prior is given, m/s, (R,); it is linear in between and constant beyond."""

_SPACING: Final = float(ONSET_PRESSURES[1] - ONSET_PRESSURES[0])
_SMALLEST: Final = 1e-12
LONGEST_WAIT: Final = 60.0
"""Upper limit of the predicted time to the onset, s."""


def speed_shares(entry_speed: Array) -> Array:
    """Return the weights of `SPEEDS` for speeds at entry in m/s: (...) -> (..., R), which sum to 1."""
    xp = namespace(entry_speed)
    knots = _like(SPEEDS, entry_speed)
    spacing = float(SPEEDS[1] - SPEEDS[0])
    speed = clipped(entry_speed, float(SPEEDS[0]), float(SPEEDS[-1]))
    return clipped(1.0 - xp.abs(speed[..., None] - knots) / spacing, 0.0, 1.0)


def log_likelihood(drag_factor: Array, deviation: Array) -> Array:
    """Return the logarithm of the likelihood of each coefficient up to a constant: (...) -> (..., G)."""
    grid = _like(DRAG_FACTORS, drag_factor)
    return -0.5 * ((grid - drag_factor[..., None]) / deviation[..., None]) ** 2


def posterior(drag_factor: Array, deviation: Array, entry_speed: Array, prior: Array) -> Array:
    """Return the probability of each coefficient, (..., G).

    Args:
        drag_factor: the feature `orbit_drag_factor`, (...).
        deviation: the feature `orbit_drag_deviation`, (...), positive.
        entry_speed: the feature `orbit_entry_speed`, (...).
        prior: probability of each coefficient at each speed, (R, G).
    """
    xp = namespace(drag_factor)
    expected = speed_shares(entry_speed) @ prior
    logarithm = log_likelihood(drag_factor, deviation) + xp.log(expected + _SMALLEST)
    weight = xp.exp(logarithm - xp.max(logarithm, axis=-1, keepdims=True))
    return weight / xp.sum(weight, axis=-1, keepdims=True)


def has_begun(weight: Array, peak_pressure: Array) -> Array:
    """Return the probability that the onset has passed, (...).

    Args:
        weight: probability of each coefficient, (..., G).
        peak_pressure: the feature `orbit_peak_pressure`, (...).
    """
    xp = namespace(weight)
    limits = _like(ONSET_PRESSURES, weight)
    above = (peak_pressure * math.log(10.0))[..., None] - limits
    return xp.sum(weight * clipped(above / _SPACING + 0.5, 0.0, 1.0), axis=-1)


def _like(grid: npt.NDArray[np.float64], x: Array) -> Array:
    """Return a grid as an array of the library, the type and the device of another one."""
    return namespace(x).asarray(grid, dtype=x.dtype, device=array_api_compat.device(x))
