"""Metrics that the Python models add to Triton's own metrics, on the same port.

Each update of a metric from a Python model is a message to the server process. So a request only records its numbers,
and a thread sends the totals once a second. The instances of a model are separate processes: their counters share one
series on the server, and the gauge of drift has one series for each instance.

The histogram consists of counters, because server 2.51 does not offer histograms to Python models. Its names and its
label `le` follow Prometheus, so `histogram_quantile` can read it.

Shapes: B tracks, T steps of the request, K >= T steps with padding, F features, N sampled steps.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from reentry.decision import NO_ONSET
from reentry.drift import Drift, Reference, watched_steps
from reentry.errors import CheckpointError
from reentry.schema import CANDIDATE_LSTM, FEATURES

FLUSH_SECONDS: Final = 1.0
"""Time between updates, s; much shorter than any scrape interval."""

STEP_STRIDE: Final = 16
"""Distance between the sampled steps of a track. Neighbouring steps are similar, so drift does not need them all."""

LATENCY_BUCKETS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.035, 0.042, 0.05),
    *(0.06, 0.07, 0.084, 0.1, 0.12, 0.145, 0.175, 0.21, 0.25, 0.3, 0.36, 0.42, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the histogram, s, from a single step (less than 1 ms) to the timeout of the queues.

A quantile is known up to the bounds of its bucket. Between 0.035 and 0.5 s the bounds are close enough that a canary
which is as fast as the stable release passes a limit of 1.5, even if the two are in neighbouring buckets.
"""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Family:
    """Metric family: the series with the same metric name."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "gauge"] = "counter"


REQUESTS: Final = Family("reentry_requests_total", "Requests answered or rejected", ("outcome",))
PREDICTIONS: Final = Family("reentry_predictions_total", "Scored steps by predicted phase", ("phase",))
TRACKS: Final = Family("reentry_tracks_total", "Scored tracks", ("model_version",))
ONSETS: Final = Family("reentry_onsets_total", "Scored tracks with an onset")
DURATION_BUCKET: Final = Family(
    "reentry_inference_duration_seconds_bucket",
    "Requests by time from the start of the feature computation to the response",
    ("le",),
)
DURATION_SUM: Final = Family("reentry_inference_duration_seconds_sum", "Sum of the inference durations")
DURATION_COUNT: Final = Family("reentry_inference_duration_seconds_count", "Number of the inference durations")
CHECKED_STEPS: Final = Family("reentry_checked_steps_total", "Steps compared with the training range, one in sixteen")
OUT_OF_RANGE: Final = Family(
    "reentry_out_of_range_steps_total", "Compared steps whose feature is outside its training range", ("feature",)
)
STABILITY_INDEX: Final = Family(
    "reentry_feature_psi",
    "Population stability index of the last few hundred tracks against the training split",
    ("feature", "used", "model_version", "model_instance"),
    "gauge",
)
TRAINING_SHARE: Final = Family(
    "reentry_training_reentry_ratio", "Share of the training steps in reentry", ("model_version",), "gauge"
)
FAMILIES: Final = (
    *(REQUESTS, PREDICTIONS, TRACKS, ONSETS, DURATION_BUCKET, DURATION_SUM, DURATION_COUNT),
    *(CHECKED_STEPS, OUT_OF_RANGE, STABILITY_INDEX, TRAINING_SHARE),
)

ANSWERED: Final = "answered"
REFUSED: Final = "refused"
OTHER: Final = "other"
"""Label of versions without a folder, so that clients cannot create any number of labels."""

MOST_VERSIONS: Final = 100
"""Maximum number of version labels if no folder lists the versions, as for models in a bucket."""

PHASES: Final = ("flight", "reentry")
"""Labels of the phases 0 and 1."""

_BOUNDS: Final = {f"{bound:g}": bound for bound in LATENCY_BUCKETS} | {"+Inf": np.inf}
"""Upper bounds of the histogram, s, by label `le` in Prometheus notation."""


class Registry:
    """Metric series of the server, created on first use."""

    def __init__(self, backend: Any) -> None:
        """Use Triton's module `triton_python_backend_utils`, which exists only inside the server."""
        self._backend = backend
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, tuple[str, ...]], Any] = {}

    def series(self, family: Family, *labels: str) -> Any:
        """Return the series (`pb_utils.Metric`) of a family with the given label values."""
        key = family.name, labels
        if key not in self._series:
            if family.name not in self._families:
                kind = getattr(self._backend.MetricFamily, family.kind.upper())
                self._families[family.name] = self._backend.MetricFamily(
                    name=family.name, description=family.meaning, kind=kind
                )
            named = dict(zip(family.labels, labels, strict=True))
            self._series[key] = self._families[family.name].Metric(labels=named)
        return self._series[key]

    def drop(self, family: Family) -> None:
        """Remove this process's series of a family from the server, which requires removing the family itself."""
        for key in [key for key in self._series if key[0] == family.name]:
            del self._series[key]
        self._families.pop(family.name, None)


class Periodic:
    """A thread that sends metrics once in `FLUSH_SECONDS`."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, and send a last time."""
        self._stop.set()
        self._thread.join()
        self._flush()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            try:
                self._flush()
            except Exception as error:  # a failure of the metrics must not stop the predictions
                _LOG.error("metrics were lost: %r", error)


@dataclass(frozen=True, slots=True)
class _RequestRecord:
    """Numbers of one answered request, kept until the next update."""

    tracks: int
    steps: int
    reentry_steps: int
    onsets: int
    seconds: float | None
    model_version: int
    features: npt.NDArray[np.float32] | None
    """Features of the sampled steps, (N, F)."""


class TrackMetrics:
    """Metrics of the tracks that `track_decision` scores and `track_monitor` sees.

    Each series of the server is the sum over both models. Drift and durations come from `track_decision` alone.
    """

    def __init__(self, registry: Registry, *, network: Path, model_instance: str) -> None:
        """Create the series, and start the thread that updates them.

        Args:
            registry: series of the server.
            network: folder of reentry_lstm, whose versions contain the references for drift.
            model_instance: name of this process's model instance.
        """
        self._registry = registry
        self._network = network
        self._model_instance = model_instance
        self._records: deque[_RequestRecord] = deque()
        self._requests = 0
        self._labelled: set[int] = set()
        self._watched: dict[bool, tuple[int, Drift | None]] = {}  # of the served candidate and of the other version
        for family, values in ((REQUESTS, (ANSWERED,)), (PREDICTIONS, PHASES), (DURATION_BUCKET, _BOUNDS)):
            for value in values:  # a rate needs a value before the first event
                registry.series(family, value)
        for family in (ONSETS, DURATION_SUM, DURATION_COUNT):
            registry.series(family)
        self._thread = Periodic(self.flush)

    def add(
        self,
        *,
        phase: npt.NDArray[np.uint8],
        track_length: npt.NDArray[np.integer[Any]],
        onset_step: npt.NDArray[np.integer[Any]],
        model_version: int,
        features: npt.NDArray[np.float32] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Record an answered request.

        Args:
            phase: phase, (B, T).
            track_length: number of steps of each track, (B,).
            onset_step: onset of each track, (B,).
            model_version: version of the network.
            features: features, (B, K, F); None if the model has none, and the request does not count for drift.
            seconds: inference time of the request, s; None if the model does not know it.
        """
        steps = sum(track_length.tolist())
        scored = phase if steps == phase.size else phase * (np.arange(phase.shape[1]) < track_length[:, None])
        self._records.append(
            _RequestRecord(
                tracks=len(phase),
                steps=steps,
                reentry_steps=int(np.count_nonzero(scored)),
                onsets=len(onset_step) - onset_step.tolist().count(NO_ONSET),
                seconds=seconds,
                model_version=model_version,
                features=None if features is None else self._sample(features, track_length),
            )
        )

    def _sample(
        self, features: npt.NDArray[np.float32], track_length: npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.float32]:
        """Take the sampled steps from the features of a request: (B, K, F) -> (N, F)."""
        start = self._requests % STEP_STRIDE  # differs between requests, so that every step is sampled
        self._requests += 1
        sampled = watched_steps(features.shape[1], every=STEP_STRIDE, start=start)
        return features[:, sampled][sampled < track_length[:, None]]

    def flush(self) -> None:
        """Update the series with the requests recorded so far."""
        records = [self._records.popleft() for _ in range(len(self._records))]
        if not records:
            return
        reentry_steps = sum(record.reentry_steps for record in records)
        self._count(REQUESTS, ANSWERED, by=len(records))
        self._count(PREDICTIONS, PHASES[0], by=sum(record.steps for record in records) - reentry_steps)
        self._count(PREDICTIONS, PHASES[1], by=reentry_steps)
        self._count(ONSETS, by=sum(record.onsets for record in records))
        durations = [record.seconds for record in records if record.seconds is not None]
        for label, bound in _BOUNDS.items():
            self._count(DURATION_BUCKET, label, by=sum(duration <= bound for duration in durations))
        self._count(DURATION_SUM, by=sum(durations))
        self._count(DURATION_COUNT, by=len(durations))
        versions: Counter[int] = Counter()
        for record in records:
            versions[record.model_version] += record.tracks
        for version, tracks in versions.items():
            label = self._label(version)
            self._count(TRACKS, label, by=tracks)
            features = [r.features for r in records if r.model_version == version and r.features is not None]
            if label != OTHER and features:
                self._measure_drift(version, np.concatenate(features), tracks)

    def close(self) -> None:
        """Stop the thread, and update the series a last time."""
        self._thread.close()

    def _label(self, version: int) -> str:
        """Label of a version, or `OTHER` if the version does not exist or there are too many to know."""
        if version not in self._labelled:
            exists = (self._network / str(version)).is_dir()
            if not exists and (len(self._labelled) >= MOST_VERSIONS or self._versions_are_known()):
                return OTHER
            self._labelled.add(version)
        return str(version)

    def _versions_are_known(self) -> bool:
        try:
            return any(path.name.isdecimal() for path in self._network.iterdir())
        except OSError:
            return False

    def _measure_drift(self, version: int, features: npt.NDArray[np.float32], tracks: int) -> None:
        """Compare features (N, F) from tracks of a version with its reference."""
        drift = self._drift_of(version)
        if drift is None:
            return
        watched = [FEATURES.index(name) for name in drift.watched]
        features = features[np.isfinite(features[:, watched]).all(axis=1)]  # a direct call may contain any values
        if not len(features):
            return
        self._count(CHECKED_STEPS, by=len(features))
        for name, outside in drift.add(features, tracks).items():
            self._count(OUT_OF_RANGE, name, by=outside)
        self._registry.series(TRAINING_SHARE, str(version)).set(drift.reference.reentry_share)
        for name, index in drift.indices().items():
            used = str(drift.reference.features[name].used).lower()
            self._registry.series(STABILITY_INDEX, name, used, str(version), self._model_instance).set(index)

    def _drift_of(self, version: int) -> Drift | None:
        """Drift of a version; None if it has no valid reference.

        A server answers with one version, and with the served candidate beside it. A new one of each replaces the one
        before, whose series are removed.
        """
        is_candidate = self._is_candidate(version)
        ended = [old for candidate, (old, _) in self._watched.items() if candidate and not self._is_candidate(old)]
        if ended:
            del self._watched[True]
        known = self._watched.get(is_candidate)
        if known is None or known[0] != version:
            known = self._watched[is_candidate] = version, self._new_drift(version)
            ended.append(version)
        if ended:
            for family in (STABILITY_INDEX, TRAINING_SHARE):  # the next update adds those of the other version again
                self._registry.drop(family)
        return known[1]

    def _is_candidate(self, version: int) -> bool:
        return (self._network.parent / CANDIDATE_LSTM.name / str(version)).is_dir()

    def _new_drift(self, version: int) -> Drift | None:
        try:
            reference = Reference.load(self._network / str(version))
        except CheckpointError as error:
            _LOG.warning("drift of version %d is not watched: %s", version, error)
            return None
        if reference is None:
            return None
        drift = Drift(reference)
        for name in drift.watched:
            self._registry.series(OUT_OF_RANGE, name)
        return drift

    def _count(self, family: Family, *labels: str, by: float) -> None:
        if by:
            self._registry.series(family, *labels).increment(by)
