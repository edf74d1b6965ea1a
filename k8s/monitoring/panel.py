"""A panel of the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RATE: Final = "[$__rate_interval]"
"""Window of a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A time series panel of the dashboard."""

    title: str
    unit: str
    """Unit of the values, as Grafana names it."""
    queries: dict[str, str]
    """PromQL queries by legend."""
    note: str = ""
    """Description that Grafana shows."""
    threshold: float | None = None
    """Value above which an alert fires."""
