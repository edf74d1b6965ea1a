"""The pace of a replay: how much faster than in the data the time passes."""

from __future__ import annotations

import asyncio
import math
import re
import time
from typing import Final

from reentry.errors import ConfigError

_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)x?", re.ASCII)


def rate_of(text: str) -> float:
    """Return the rate of a text such as 1x or 10x; infinite for max.

    Raises:
        ConfigError: the text is not a rate.
    """
    if text == "max":
        return math.inf
    match = _RATE.fullmatch(text)
    if match is None or not 0.0 < float(match[1]) <= 1e6:
        raise ConfigError(
            "not a rate", expected="1x, 10x or another multiple of the time in the data, or max", got=text
        )
    return float(match[1])


class Pace:
    """Waits until the time of each measurement has come."""

    def __init__(self, rate: float) -> None:
        """Start with the first measurement.

        Args:
            rate: seconds of the data in one second; infinite for no waiting.
        """
        self._rate = rate
        self._first: float | None = None
        self._begun = 0.0

    def due(self, timestamp: float) -> float:
        """Return how long to wait until a timestamp of the data is due, s."""
        if math.isinf(self._rate) or not math.isfinite(timestamp):
            return 0.0
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = timestamp, now
        return max(0.0, self._begun + (timestamp - self._first) / self._rate - now)

    async def wait(self, timestamp: float) -> None:
        """Wait until a timestamp of the data is due."""
        await asyncio.sleep(self.due(timestamp))
