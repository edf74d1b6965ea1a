"""Logarithm of the air density by altitude, after the US Standard Atmosphere 1976 (NOAA-S/T 76-1562).

The features need a scale over twelve decades of density, not the weather, so one table serves everywhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from reentry.arrays import Array, clipped, converted, namespace

SPACING: Final = 1_000.0
"""Altitude difference between rows of the table, m."""

HIGHEST: Final = 1_000_000.0
"""Altitude above which the density is constant, m."""

_EARTH_RADIUS: Final = 6_356_766.0
"""Earth radius in the definition of the geopotential altitude, m."""

_GRADIENT_TO_PRESSURE: Final = 0.0341631947
"""Gravity times molar mass divided by the universal gas constant, K/m."""

_SEA_LEVEL_PRESSURE: Final = 101_325.0
"""Pressure at sea level, Pa."""

_GAS_CONSTANT: Final = 287.05287
"""Specific gas constant of dry air, J/(kg K)."""

_LAYERS: Final = (
    (0.0, 288.15, -0.0065),
    (11_000.0, 216.65, 0.0),
    (20_000.0, 216.65, 0.001),
    (32_000.0, 228.65, 0.0028),
    (47_000.0, 270.65, 0.0),
    (51_000.0, 270.65, -0.0028),
    (71_000.0, 214.65, -0.002),
)
"""Layers below 86 km (table 4): geopotential altitude of the base, m, temperature there, K, and its gradient, K/m."""

_UPPER_DENSITIES: Final = (
    (90e3, 3.416e-6),
    (100e3, 5.604e-7),
    (110e3, 9.708e-8),
    (120e3, 2.222e-8),
    (150e3, 2.076e-9),
    (200e3, 2.541e-10),
    (300e3, 1.916e-11),
    (500e3, 5.215e-13),
    (1000e3, 3.561e-15),
)
"""Altitude, m, and density, kg/m3, above 86 km. The logarithm of the density is interpolated linearly."""


def log_density(altitude: Array) -> Array:
    """Natural logarithm of the density, kg/m3, at altitudes in m. It is constant below 0 km and above 1,000 km."""
    xp = namespace(altitude)
    table = xp.asarray(_LOG_DENSITY)
    row = clipped(altitude, 0.0, HIGHEST) / SPACING
    below = xp.minimum(xp.floor(row), len(_LOG_DENSITY) - 2.0)
    index = converted(below, "int64")
    lower, upper = table[index], table[index + 1]
    return lower + (upper - lower) * (row - below)


def _layer_density(altitude: float) -> float:
    """Density, kg/m3, at an altitude of at most 86 km, m."""
    geopotential = _EARTH_RADIUS * altitude / (_EARTH_RADIUS + altitude)
    pressure = _SEA_LEVEL_PRESSURE
    tops = [base for base, _, _ in _LAYERS[1:]] + [np.inf]
    for (base, base_temperature, gradient), top in zip(_LAYERS, tops, strict=True):
        height = min(geopotential, top) - base
        temperature = base_temperature + gradient * height
        if gradient:
            pressure *= (base_temperature / temperature) ** (_GRADIENT_TO_PRESSURE / gradient)
        else:
            pressure *= float(np.exp(-_GRADIENT_TO_PRESSURE * height / base_temperature))
        if geopotential <= top:
            break
    return pressure / (_GAS_CONSTANT * temperature)


_LAYER_ALTITUDES: Final = np.arange(0.0, 86_001.0, SPACING)
_LOG_DENSITY: Final = np.interp(
    np.arange(0.0, HIGHEST + 1.0, SPACING),
    [*_LAYER_ALTITUDES, *(altitude for altitude, _ in _UPPER_DENSITIES)],
    np.log([*map(_layer_density, _LAYER_ALTITUDES.tolist()), *(density for _, density in _UPPER_DENSITIES)]),
)
"""Logarithm of the density at multiples of `SPACING` up to `HIGHEST`. The altitudes of both tables are multiples."""
