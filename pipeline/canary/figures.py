"""The figures of both releases, read from Prometheus.

The queries use the metrics of the servers with the label `release`, which k8s/monitoring/prometheus.yaml adds. Their
definitions of failed and refused requests are those of k8s/monitoring/rules.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from pipeline.canary.checks import Buckets, Requests, Scored
from pipeline.canary.prometheus import NoFiguresError, Prometheus, Series
from reentry.schema import ENSEMBLE, REENTRY_FAST
from reentry.triton.telemetry import DURATION_BUCKET, ONSETS, REFUSED, REQUESTS, STABILITY_INDEX, TRACKS

CANARY: Final = "canary"
STABLE: Final = "stable"


def histogram(series: Iterable[Series]) -> Buckets:
    """Return the buckets of a histogram with the label `le`.

    A scrape may see some counters before and others after a request. Counts therefore never fall from one bucket to the
    next, as in `histogram_quantile` of Prometheus.
    """
    found = sorted((float(each.labels["le"]), each.value) for each in series)
    return list(zip((bound for bound, _ in found), accumulate((count for _, count in found), max), strict=True))


@dataclass(frozen=True, slots=True)
class Release:
    """One release in one period."""

    prometheus: Prometheus
    namespace: str
    name: str
    """Value of the label `release`: `CANARY` or `STABLE`."""
    seconds: int
    """Length of the period, s."""

    def requests(self) -> Requests:
        """Return the numbers of requests.

        Raises:
            NoFiguresError: a figure is unknown, or a server did not answer Prometheus all the time.
        """
        if self.name == CANARY:
            self._require_up()
        models = f'model=~"{ENSEMBLE.name}|{REENTRY_FAST.name}"'
        answered = self._increase("nv_inference_request_success", models)
        # An ensemble counts each of its failures twice, see k8s/monitoring/rules.yaml.
        failed = 0.5 * self._increase("nv_inference_request_failure", f'{models},reason!="CANCELED"')
        refused = self._increase(REQUESTS.name, f'outcome="{REFUSED}"')
        return Requests(received=answered + failed, failed=failed, refused=min(refused, failed))

    def durations(self) -> Buckets:
        """Return the histogram of the inference time.

        Raises:
            NoFiguresError: it is unknown.
        """
        query = f"sum by (le) (increase({self._select(DURATION_BUCKET.name)}[{self.seconds}s]))"
        found = histogram(self.prometheus.series(query))
        if not found or not math.isinf(found[-1][0]) or not all(math.isfinite(count) for _, count in found):
            raise NoFiguresError(f"no histogram for {query}")
        return found

    def drift(self) -> dict[str, float]:
        """Return the population stability index of each feature that the network uses.

        Raises:
            NoFiguresError: Prometheus does not answer.
        """
        selected = self._select(STABILITY_INDEX.name, 'used="true"')
        query = f"avg by (feature) ({selected})"
        return {each.labels["feature"]: each.value for each in self.prometheus.series(query)}

    def tracks_since_start(self) -> float:
        """Return the number of tracks that the running servers have scored.

        Raises:
            NoFiguresError: it is unknown.
        """
        return self.prometheus.number(f"sum({self._select(TRACKS.name)})")

    def scored(self) -> Scored:
        """Return the numbers of tracks and of tracks with an onset.

        Raises:
            NoFiguresError: a figure is unknown.
        """
        return Scored(tracks=self._increase(TRACKS.name), onsets=self._increase(ONSETS.name))

    def _require_up(self) -> None:
        """Check that each server of the release answered each scrape: one that is down counts no errors."""
        query = f"min(min_over_time({self._select('up')}[{self.seconds}s]))"
        if self.prometheus.number(query) < 1.0:
            raise NoFiguresError(f"a server of the {self.name} release did not answer Prometheus")

    def _increase(self, metric: str, *labels: str) -> float:
        return self.prometheus.number(f"sum(increase({self._select(metric, *labels)}[{self.seconds}s]))")

    def _select(self, metric: str, *labels: str) -> str:
        common = (f'job="reentry",namespace="{self.namespace}"', f'release="{self.name}"')
        return f"{metric}{{{','.join((*common, *labels))}}}"
