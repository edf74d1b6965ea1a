"""Counts and latencies of a feed."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Rejection = Literal["invalid", "late", "refused", "no_slot"]
"""Why a measurement changed nothing: its values, its time, a refusal of the server, or no slot for its track."""
ReplayReason = Literal["lost_server", "expired", "restarted"]
"""Why a track was replayed: the connection broke, the server dropped an idle sequence, or the server lost its state."""

BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of a latency histogram, s."""
_SAMPLE: Final = 4096
"""Number of recent latencies from which percentiles are computed."""


class Latencies:
    """A histogram of all latencies, and a sample of the recent ones."""

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(len(BOUNDS) + 1, np.int64)
        """Number of latencies in each bucket, the last of which has no upper bound."""
        self.total = 0.0
        """Sum of all latencies, s."""
        self._recent = np.full(_SAMPLE, np.nan)
        self._next = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Add `count` equal latencies, such as those of the measurements of one scan."""
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count
        self._recent[self._next % _SAMPLE] = seconds
        self._next += 1

    def recent(self) -> npt.NDArray[np.float64]:
        """Return the recent latencies of requests, s."""
        return self._recent[: min(self._next, _SAMPLE)].copy()


@dataclass(slots=True)
class Statistics:
    """Counts of one feed since its start."""

    updates: int = 0
    """Answered measurements, without replays."""
    alerts: int = 0
    refinements: int = 0
    rejected: Counter[Rejection] = field(default_factory=Counter)
    """Measurements that changed nothing, by reason."""
    replays: Counter[ReplayReason] = field(default_factory=Counter)
    """Replayed tracks, by reason."""
    replayed_measurements: int = 0
    truncated_replays: int = 0
    """Replayed tracks whose first measurements the buffer no longer held."""
    update_latency: Latencies = field(default_factory=Latencies)
    """Time from handing a measurement to the feed until its answer."""
    alert_latency: Latencies = field(default_factory=Latencies)
    """Time from handing the measurement of an onset to the feed until its alert."""


def percentiles(latencies: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return p50 and p99 of latencies, s; NaN without any."""
    if not len(latencies):
        return float("nan"), float("nan")
    p50, p99 = np.percentile(latencies, [50, 99])
    return float(p50), float(p99)
