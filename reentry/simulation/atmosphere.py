"""Air density as a function of height, from one mean state of the NRLMSIS 2.1 model.

Emmert et al., 2022, "NRLMSIS 2.1: An Empirical Model of Nitric Oxide Incorporated Into MSIS". The package pymsis
computes the model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

HIGHEST: Final = 1_000_000.0
"""Height in m above which the density is taken as constant."""

_SPACING: Final = 1_000.0
"""Spacing of the table in m; the logarithm of the density is interpolated linearly in between."""


def density(height: Float64) -> Float64:
    """Return the air density in kg/m^3 at a height in m, for an array of any shape; constant below sea level."""
    table, difference = _log_density()
    position = np.minimum(np.maximum(height / _SPACING, 0.0), len(table) - 1.001)
    below = position.astype(np.int64)
    result: Float64 = np.exp(table.take(below) + (position - below) * difference.take(below))
    return result


@lru_cache(maxsize=1)
def _log_density() -> tuple[Float64, Float64]:
    """Compute the table and the differences of its successive values.

    The place is at 45 degrees north, the time noon of an equinox, with F10.7 solar flux 150 and quiet Ap index 4.
    """
    import pymsis

    found = pymsis.calculate(
        np.datetime64("2020-03-20T12:00"),
        0.0,
        45.0,
        np.arange(0.0, HIGHEST + 1.0, _SPACING) / 1e3,
        f107s=150.0,
        f107as=150.0,
        aps=[[4.0] * 7],
        version=2.1,
    )
    logarithm: Float64 = np.log(found[..., pymsis.Variable.MASS_DENSITY].ravel().astype(np.float64))
    return logarithm, np.diff(logarithm)
