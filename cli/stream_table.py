"""The view of running feeds: a live table on a terminal, and log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

    from client.stream.alert import Refinement
    from client.stream.run import StreamRun

_SECONDS_BETWEEN_LINES: Final = 5.0
_FEEDS_SHOWN: Final = 20
"""Number of feeds in the table; the sums count all of them."""

_log = logging.getLogger(__name__)


@contextmanager
def showing(*, alerts_on_stdout: bool) -> Iterator[Callable[[StreamRun], None]]:
    """Yield a function that shows a run on standard error.

    Args:
        alerts_on_stdout: whether alerts are printed to standard output, which a table on the same terminal would hide.
    """
    is_hidden = alerts_on_stdout and sys.stdout.isatty()
    if not sys.stderr.isatty() or is_hidden or not _log.isEnabledFor(logging.INFO):
        yield _line_logger()
        return
    from rich.console import Console
    from rich.live import Live

    rate = Rate()
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield lambda run: live.update(view(run, rate), refresh=True)


class Rate:
    """Measurements answered in a second, from one look to the next."""

    def __init__(self) -> None:
        self._updates, self._at, self._rate = 0, time.monotonic(), 0.0

    def of(self, updates: int) -> float:
        """Return the rate of a second ago at most, given the number of answered measurements now."""
        now = time.monotonic()
        if now - self._at >= 1.0:
            self._rate = (updates - self._updates) / (now - self._at)
            self._updates, self._at = updates, now
        return self._rate


def _line_logger() -> Callable[[StreamRun], None]:
    last_line, rate = time.monotonic(), Rate()

    def show(run: StreamRun) -> None:
        nonlocal last_line
        per_second = rate.of(sum(feed.statistics.updates for feed in run.feeds.values()))
        if time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            summary = run.summary(None, 0)
            _log.info(
                f"{summary.updates:,} measurements, {per_second:,.0f}/s, {_live(run):,} live tracks, "
                f"{_in_reentry(run):,} in reentry, {summary.alerts:,} alerts, latency p50/p99 "
                f"{_latency(summary.update_latency_ms)}, {sum(summary.replays.values()):,} replays, "
                f"{sum(summary.rejected.values()):,} rejected"
            )

    return show


def _live(run: StreamRun) -> int:
    return sum(len(feed.tracks) for feed in run.feeds.values())


def _in_reentry(run: StreamRun) -> int:
    return sum(feed.tracks.in_reentry for feed in run.feeds.values())


def _latency(milliseconds: tuple[float | None, float | None]) -> str:
    return " / ".join("-" if each is None else f"{each:.1f}" for each in milliseconds) + " ms"


def view(run: StreamRun, rate: Rate) -> RenderableType:
    """Return the tables: one line for each feed, and the latest alerts."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    summary = run.summary(None, 0)
    feeds = Table(title=f"{run.seconds:,.0f} s, {rate.of(summary.updates):,.0f} measurements/s", title_justify="left")
    for column in ("feed", "server", "tracks", "in reentry", "measurements", "rejected", "replays", "alerts"):
        feeds.add_column(column, justify="left" if column in ("feed", "server") else "right")
    for feed in list(run.feeds.values())[:_FEEDS_SHOWN]:
        numbers = (
            len(feed.tracks),
            feed.tracks.in_reentry,
            feed.statistics.updates,
            feed.statistics.rejected.total(),
            feed.statistics.replays.total(),
            feed.statistics.alerts,
        )
        feeds.add_row(Text(feed.name), feed.server or "unavailable", *(f"{number:,}" for number in numbers))
    alerts = Table(title=f"{summary.alerts:,} alerts", title_justify="left")
    for column in ("feed", "track", "onset", "refined onset", "phase", "probability", "latency"):
        alerts.add_column(column, justify="left" if column == "feed" else "right")
    for alert in reversed(run.alerts):
        phase, probability = run.feeds[alert.feed].tracks.latest(alert.track_id)
        alerts.add_row(
            Text(alert.feed),
            str(alert.track_id),
            _clock(alert.onset_timestamp),
            _refined(run.refinements.get((alert.feed, alert.track_id))),
            phase,
            f"{probability:.3f}",
            f"{alert.latency_ms:.1f} ms",
        )
    latencies = (
        f"latency p50 / p99: {_latency(summary.update_latency_ms)}, of alerts {_latency(summary.alert_latency_ms)}"
    )
    return Group(feeds, Text(latencies), alerts)


def _refined(refinement: Refinement | None) -> str:
    """Return the refined onset with its standard deviation, or a dash before the first refinement."""
    if refinement is None:
        return "-"
    return f"{_clock(refinement.refined_onset_timestamp)} ± {refinement.refined_onset_deviation:.1f} s"


def _clock(timestamp: float) -> str:
    """Return a Unix time as text in UTC."""
    try:
        return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-5]
    except (ValueError, OverflowError, OSError):
        return f"{timestamp:.1f}"
