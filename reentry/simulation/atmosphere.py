"""Density of the air by height, for simulated flights: NRLMSIS 2.1 in one mean state.

Emmert et al., 2022, "NRLMSIS 2.1: An Empirical Model of Nitric Oxide Incorporated Into MSIS", by the package pymsis.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

HIGHEST: Final = 1_000_000.0
"""m; above, the air of this height counts."""

_SPACING: Final = 1_000.0
"""m between the heights of the table; between them the logarithm of the density is a straight line."""


def density(height: Float64) -> Float64:
    """Of any shape, m -> kg/m^3; below sea level that of sea level."""
    table = _log_density()
    place = np.clip(height / _SPACING, 0.0, len(table) - 1.001)
    below = place.astype(np.int64)
    share = place - below
    thickness: Float64 = np.exp(table[below] + share * (table[below + 1] - table[below]))
    return thickness


@lru_cache(maxsize=1)
def _log_density() -> Float64:
    """At 45 degrees north, at noon of an equinox, the Sun's radio flux (10.7 cm) at 150, its field quiet (Ap 4)."""
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
    return logarithm
