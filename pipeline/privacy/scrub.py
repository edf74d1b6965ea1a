"""Texts about rows that may be stored or logged: no ids, no free text, coordinates rounded to half a degree."""

from __future__ import annotations

import math
import re
from typing import Final

COORDINATE_STEP: Final = 0.5
"""Coordinates are rounded to multiples of this, degrees; about 55 km on a meridian."""
_LONGEST: Final = 40


def masked(text: str) -> str:
    """Return a text with each letter replaced by x and each digit by 9, so that only its form is left."""
    return re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "9", text[:_LONGEST])) + ("..." if len(text) > _LONGEST else "")


def rounded(coordinate: float) -> str:
    """Return a latitude or longitude, degrees, to the nearest `COORDINATE_STEP`."""
    return f"{round(coordinate / COORDINATE_STEP) * COORDINATE_STEP:.1f}" if math.isfinite(coordinate) else "missing"
