"""Service-level objective: a latency limit, and the search for the highest load that holds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from perf.analyzer.results import PERCENTILES, Figures, WorkloadResult
from reentry.errors import ConfigError

_PRECISION: Final = 1.05
"""Ratio of two rates below which the search ends."""
_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_FORM: Final = re.compile(r"p(\d{1,2})=(\d{1,6}(?:\.\d{1,3})?)(us|ms|s)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Objective:
    """Upper limit of one percentile of the latency."""

    percentile: int
    """One of `results.PERCENTILES`."""
    limit: float
    """Largest latency, ms."""

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Parse a text such as "p99=10ms".

        Raises:
            ConfigError: the text has another form, or the limit is 0.
        """
        match = _FORM.fullmatch(text)
        limit = float(match[2]) * _UNITS[match[3]] if match else 0.0
        if match is None or int(match[1]) not in PERCENTILES or limit <= 0.0:
            names = ", ".join(f"p{percentile}" for percentile in PERCENTILES)
            raise ConfigError(
                "invalid objective", expected=f"{names} = a limit in us, ms or s, such as p99=10ms", got=repr(text)
            )
        return cls(int(match[1]), limit)

    def __str__(self) -> str:
        return f"p{self.percentile} <= {self.limit:g} ms"

    def held_by(self, result: WorkloadResult) -> bool:
        """Return whether a result holds the limit. A result whose figures cannot be relied on does not."""
        return result.figures is not None and result.status == "stable" and self.met_by(result.figures)

    def met_by(self, figures: Figures) -> bool:
        """Return whether figures are within the limit, whether or not they can be relied on."""
        return bool(getattr(figures, f"p{self.percentile}") <= self.limit)


def highest_level(levels: Sequence[float], holds: Callable[[float], bool], *, whole: bool) -> float | None:
    """Find the highest level that holds by bisection, for loads whose latency grows with the level.

    Args:
        levels: levels whose lowest and highest bound the search.
        holds: measures a level and returns whether it holds.
        whole: whether levels are whole numbers. Other levels are found within 5%.

    Returns:
        The highest level that was measured and holds; None if the lowest does not hold.
    """
    low, high = min(levels), max(levels)
    if not holds(low):
        return None
    if low == high or holds(high):
        return high
    while high - low > 1 if whole else high / low > _PRECISION:
        middle = (low + high) // 2 if whole else round((low + high) / 2, 3)
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
