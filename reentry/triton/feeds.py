"""The live feeds of a model instance: when one begins, ends, is lost or is idle.

Shapes: N measurements of a scan, M measurement columns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from reentry.triton.live_feed import LiveFeed, LostFeedError, Network, PriorOf, ScanAnswer
from reentry.triton.live_metrics import LiveMetrics
from reentry.triton.sequences import END, START, Sequences


class RefusalError(Exception):
    """The scan is refused; the message is for the client."""


class Feeds:
    """The live feeds of a model instance, by the correlation id of their sequences."""

    def __init__(
        self,
        network: Network,
        feature_demand: Callable[[], frozenset[str]],
        *,
        idle: float,
        metrics: LiveMetrics,
        clock: Callable[[], float] = time.monotonic,
        prior_of: PriorOf | None = None,
    ) -> None:
        """Begin without feeds.

        Args:
            network: the network.
            feature_demand: function that returns the groups of `schema.COSTLY_GROUPS` that the network needs.
            idle: time without a measurement after which a track is dropped, and without a scan after which a feed is
                dropped, s.
            metrics: the metrics.
            clock: current time, s.
            prior_of: priors of the versions of the network; None if no version has one.
        """
        self._network, self._feature_demand = network, feature_demand
        self._prior_of = prior_of
        self._idle, self._metrics, self._clock = idle, metrics, clock
        self._feeds: Sequences[LiveFeed] = Sequences(idle, clock)
        self._lock = threading.Lock()

    def scan(
        self, name: int | str, flags: int, track_id: npt.NDArray[np.int64], measurements: npt.NDArray[np.float64]
    ) -> tuple[ScanAnswer, int]:
        """Answer the scan of a feed.

        Args:
            name: correlation id of the feed.
            flags: flags of the request.
            track_id: track of each measurement, (N,).
            measurements: the measurements, (N, M).

        Returns:
            The answer, and the version of the network; 0 if no measurement of the feed was valid so far.

        Raises:
            RefusalError: the scan is invalid, and nothing has changed; or the feed has no state.
        """
        with self._lock:
            return self._scan(name, flags, track_id, measurements)

    def flush(self) -> None:
        """Drop feeds and tracks that are silent, and send the metrics; from another thread than the scans."""
        with self._lock:
            silent = sum(map(len, self._feeds.drop_idle()))
            self._metrics.expired(silent + sum(feed.drop_silent() for feed in self._feeds.values()))
            self._metrics.live(len(self._feeds), sum(map(len, self._feeds.values())))
        self._metrics.flush()

    def _scan(
        self, name: int | str, flags: int, track_id: npt.NDArray[np.int64], measurements: npt.NDArray[np.float64]
    ) -> tuple[ScanAnswer, int]:
        try:
            feed = self._opened(name, start=bool(flags & START))
            self._metrics.expired(feed.drop_silent())
            # The last request of a feed may be empty.
            answer = feed.scan(track_id, measurements) if len(track_id) or not flags & END else ScanAnswer.invalid(0)
        except ValueError as error:
            self._metrics.refused()
            raise RefusalError(str(error)) from error
        except Exception as error:
            # The scan may have moved some of the tracks, so the feed cannot go on.
            self._feeds.drop(name)
            self._metrics.refused()
            self._metrics.lost()
            raise RefusalError(
                f"feed {name} has no state here: {error}. The first request of a sequence must specify the START flag. "
                "Fix: send START, and the measurements of all live tracks again"
            ) from error
        if flags & END:
            self._feeds.drop(name)
        self._metrics.answered(answer)
        return answer, feed.version or 0

    def _opened(self, name: int | str, *, start: bool) -> LiveFeed:
        """Return a feed, or begin it.

        Raises:
            LostFeedError: there is no such feed, or it lacks features that the network needs.
        """
        groups = self._feature_demand()
        feed = None if start else self._feeds.get(name)
        if start:
            feed = LiveFeed(self._network, groups=groups, idle=self._idle, clock=self._clock, prior_of=self._prior_of)
        if feed is None:
            raise LostFeedError("it is unknown")
        if not groups <= feed.groups:
            raise LostFeedError("a new version of the network needs further features")
        self._feeds.put(name, feed)
        return feed
