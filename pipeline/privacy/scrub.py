"""Texts about rows that may be stored or logged: no ids, no free text, coordinates rounded to half a degree.

Code that logs a value of a row passes it through `masked` or `rounded`. `ScrubbingFilter` is the second line of
defence, for messages of libraries and tracebacks. It knows values only by the name before them, such as sensor_id=7,
and e-mail addresses by their form, so that it leaves ordinary numbers alone. It cannot recognise an id without a name.
"""

from __future__ import annotations

import logging
import math
import re
import string
from typing import Final

COORDINATE_STEP: Final = 0.5
"""Coordinates are rounded to multiples of this, degrees; about 55 km on a meridian."""
_LONGEST: Final = 40
_UNCHANGED: Final = frozenset(string.punctuation + " ")

_SEPARATOR: Final = r"([\"']?\s*[=:]\s*[\"']?)"
_COORDINATE: Final = re.compile(rf"\b(latitude|longitude){_SEPARATOR}(-?\d+(?:\.\d+)?)\b", re.IGNORECASE)
_ID: Final = re.compile(rf"\b((?:sensor|operator)_id){_SEPARATOR}([^\s,;\"')\]}}]+)", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"\b(sensor(?:_id)?|operator(?:_id)?)( |=|: ?)(\d+)\b", re.IGNORECASE)
_EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}")


def masked(text: str) -> str:
    """Return a text with each digit replaced by 9 and all but ASCII punctuation by x, so that only its form is left."""
    shown = "".join(each if each in _UNCHANGED else "9" if each.isdigit() else "x" for each in text[:_LONGEST])
    return shown + ("..." if len(text) > _LONGEST else "")


def rounded(coordinate: float) -> str:
    """Return a latitude or longitude, degrees, to the nearest `COORDINATE_STEP`."""
    if not math.isfinite(coordinate):
        return "missing"
    return f"{round(coordinate / COORDINATE_STEP) * COORDINATE_STEP + 0.0:.1f}"


def scrubbed(text: str) -> str:
    """Return a text with named ids and e-mail addresses masked and named coordinates rounded."""
    text = _COORDINATE.sub(lambda match: f"{match[1]}{match[2]}{rounded(float(match[3]))}", text)
    for pattern in (_ID, _NUMBERED):
        text = pattern.sub(lambda match: f"{match[1]}{match[2]}{masked(match[3])}", text)
    return _EMAIL.sub(lambda match: masked(match[0]), text)


class ScrubbingFilter(logging.Filter):
    """Scrubs the messages and tracebacks of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the text of a record by its scrubbed form; every record passes."""
        message = record.getMessage()
        if scrubbed(message) != message:
            record.msg, record.args = scrubbed(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = scrubbed(record.exc_text)
        return True
