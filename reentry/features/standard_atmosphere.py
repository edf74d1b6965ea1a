"""Density of the air by altitude: the US Standard Atmosphere 1976 (NOAA-S/T 76-1562), in logarithm.

What features need of the air is a scale that goes over twelve decades, not the weather: one table serves everywhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

SPACING: Final = 1_000.0
"""m between the rows of the table."""

_EARTH_RADIUS: Final = 6_356_766.0
"""m, of the standard's geopotential altitude."""

_GRADIENT_TO_PRESSURE: Final = 0.0341631947
"""K/m, gravity times molar mass over the gas constant."""

_SEA_LEVEL_PRESSURE: Final = 101_325.0
"""Pa."""

_GAS: Final = 287.05287
"""J/(kg K), of dry air."""

_LAYERS: Final = (
    (0.0, 288.15, -0.0065),
    (11_000.0, 216.65, 0.0),
    (20_000.0, 216.65, 0.001),
    (32_000.0, 228.65, 0.0028),
    (47_000.0, 270.65, 0.0),
    (51_000.0, 270.65, -0.0028),
    (71_000.0, 214.65, -0.002),
)
"""Below 86 km: geopotential altitude of the layer's foot, m, temperature there, K, and its gradient, K/m (table 4)."""

_ABOVE: Final = (
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
"""Above: altitude, m, and density, kg/m3; its logarithm is linear between them."""


def log_density(altitude: Float64) -> Float64:
    """Natural logarithm of the density, kg/m3, at altitudes in m; that of the ends beyond 0 and 1,000 km."""
    return np.interp(altitude, _ALTITUDE, _LOG_DENSITY)


def _layered(altitude: float) -> float:
    """Density of the layers, kg/m3, to 86 km."""
    geopotential = _EARTH_RADIUS * altitude / (_EARTH_RADIUS + altitude)
    pressure = _SEA_LEVEL_PRESSURE
    tops = [foot for foot, _, _ in _LAYERS[1:]] + [np.inf]
    for (foot, base, gradient), top in zip(_LAYERS, tops, strict=True):
        climbed = min(geopotential, top) - foot
        temperature = base + gradient * climbed
        if gradient:
            pressure *= (base / temperature) ** (_GRADIENT_TO_PRESSURE / gradient)
        else:
            pressure *= float(np.exp(-_GRADIENT_TO_PRESSURE * climbed / base))
        if geopotential <= top:
            break
    return pressure / (_GAS * temperature)


_LAYER_ALTITUDES: Final = np.arange(0.0, 86_001.0, SPACING)
_ALTITUDE: Final = np.concatenate([_LAYER_ALTITUDES, [altitude for altitude, _ in _ABOVE]])
_LOG_DENSITY: Final = np.log([*map(_layered, _LAYER_ALTITUDES.tolist()), *(density for _, density in _ABOVE)])
