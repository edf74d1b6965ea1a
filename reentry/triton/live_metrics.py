"""Metrics of live tracks that the model for scans adds to Triton's own metrics.

A request only adds its numbers; a thread of the model sends the totals once a second, see `reentry.triton.telemetry`.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

from reentry.triton.live_feed import ScanAnswer
from reentry.triton.telemetry import ANSWERED, REFUSED, Family, Registry

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"

SCANS: Final = Family("reentry_scans_total", "Scans answered or refused", ("outcome",))
MEASUREMENTS: Final = Family(
    "reentry_scan_measurements_total",
    "Measurements of answered scans; invalid, late and repeated ones are rejected",
    ("outcome",),
)
STARTED: Final = Family("reentry_live_tracks_started_total", "Live tracks that began")
EXPIRED: Final = Family("reentry_live_tracks_expired_total", "Live tracks dropped because they were silent")
ONSETS: Final = Family("reentry_live_onsets_total", "Live tracks whose reentry began")
LOST: Final = Family("reentry_live_feeds_lost_total", "Scans refused because their feed has no state")
LIVE_TRACKS: Final = Family("reentry_live_tracks", "Live tracks", ("model_instance",), "gauge")
LIVE_FEEDS: Final = Family("reentry_live_feeds", "Live feeds", ("model_instance",), "gauge")
FAMILIES: Final = (SCANS, MEASUREMENTS, STARTED, EXPIRED, ONSETS, LOST, LIVE_TRACKS, LIVE_FEEDS)


class LiveMetrics:
    """Metrics of the feeds of a model instance."""

    def __init__(self, registry: Registry, *, model_instance: str) -> None:
        """Create the series.

        Args:
            registry: series of the server.
            model_instance: name of this process's model instance.
        """
        self._registry = registry  # Triton deletes a family with its last reference, although its series are still used
        self._counters = {
            (family, labels): registry.series(family, *labels)
            for family, labels in (
                *((SCANS, (outcome,)) for outcome in (ANSWERED, REFUSED)),
                *((MEASUREMENTS, (outcome,)) for outcome in (ACCEPTED, REJECTED)),
                *((family, ()) for family in (STARTED, EXPIRED, ONSETS, LOST)),
            )
        }
        self._gauges = [registry.series(family, model_instance) for family in (LIVE_FEEDS, LIVE_TRACKS)]
        self._totals: Counter[tuple[Family, tuple[str, ...]]] = Counter()
        self._lock = threading.Lock()
        self._live = (0, 0)

    def answered(self, answer: ScanAnswer) -> None:
        """Count an answered scan."""
        accepted = int(answer.accepted.sum())
        self._count(SCANS, ANSWERED)
        self._count(MEASUREMENTS, ACCEPTED, by=accepted)
        self._count(MEASUREMENTS, REJECTED, by=len(answer.accepted) - accepted)
        self._count(STARTED, by=int(answer.started.sum()))
        self._count(ONSETS, by=int(answer.onset.sum()))

    def refused(self) -> None:
        """Count a refused scan."""
        self._count(SCANS, REFUSED)

    def lost(self) -> None:
        """Count a scan whose feed has no state."""
        self._count(LOST)

    def expired(self, tracks: int) -> None:
        """Count tracks that were dropped because they were silent."""
        self._count(EXPIRED, by=tracks)

    def live(self, feeds: int, tracks: int) -> None:
        """Set the numbers of live feeds and tracks."""
        self._live = feeds, tracks

    def flush(self) -> None:
        """Update the series."""
        with self._lock:
            totals, self._totals = self._totals, Counter()
        for key, count in totals.items():
            self._counters[key].increment(count)
        for gauge, number in zip(self._gauges, self._live, strict=True):
            gauge.set(number)

    def _count(self, family: Family, *labels: str, by: int = 1) -> None:
        if by:
            with self._lock:
                self._totals[family, labels] += by
