"""The metrics that the Python models add to Triton's own, on the same port.

Triton takes a metric from a Python model one call at a time, each a message to the server's process, so a request only
leaves its numbers behind, and a thread hands them over once a second. Counters of several instances, which are
processes, meet in one series of the server and add up there; the gauge of drift has a series for each instance.

The histogram is made of counters, for server 2.51 gives Python models no histogram. Its names and its label `le` are
those of a Prometheus histogram, so `histogram_quantile` reads it.

Shapes: B tracks, T steps of the request, K >= T steps of its bucket, F features, N steps that drift is measured on.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from reentry.decision import NO_ONSET
from reentry.drift import Drift, Reference, watched_steps
from reentry.errors import CheckpointError
from reentry.schema import FEATURES

FLUSH_SECONDS: Final = 1.0
"""Well below any interval of scraping."""

STEP_STRIDE: Final = 16
"""Drift looks at every sixteenth step, beginning elsewhere in each request: neighbours are alike, and it costs time."""

LATENCY_BUCKETS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
"""s. From a single step, well below a millisecond, to the queues' timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Series of one name."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str


REQUESTS: Final = Family(
    name="reentry_requests_total",
    kind="counter",
    labels=("outcome",),
    meaning="Requests that were answered, or refused because of what was in them",
)
PREDICTIONS: Final = Family(
    name="reentry_predictions_total", kind="counter", labels=("phase",), meaning="Steps by the phase they were given"
)
TRACKS: Final = Family(
    name="reentry_tracks_total", kind="counter", labels=("model_version",), meaning="Tracks answered"
)
ONSETS: Final = Family(name="reentry_onsets_total", kind="counter", labels=(), meaning="Tracks with an onset")
DURATION_BUCKET: Final = Family(
    name="reentry_inference_duration_seconds_bucket",
    kind="counter",
    labels=("le",),
    meaning="Requests by the time from their features to their answer",
)
DURATION_SUM: Final = Family(
    name="reentry_inference_duration_seconds_sum", kind="counter", labels=(), meaning="Sum of these times"
)
DURATION_COUNT: Final = Family(
    name="reentry_inference_duration_seconds_count", kind="counter", labels=(), meaning="Number of these times"
)
CHECKED_STEPS: Final = Family(
    name="reentry_checked_steps_total",
    kind="counter",
    labels=(),
    meaning="Steps held against the training range, one of sixteen",
)
OUT_OF_RANGE: Final = Family(
    name="reentry_out_of_range_steps_total",
    kind="counter",
    labels=("feature",),
    meaning="Those of them whose feature lies outside its training range",
)
STABILITY_INDEX: Final = Family(
    name="reentry_feature_psi",
    kind="gauge",
    labels=("feature", "used", "model_version", "model_instance"),
    meaning="Population stability index of the last few hundred tracks against the training split",
)
TRAINING_SHARE: Final = Family(
    name="reentry_training_reentry_ratio",
    kind="gauge",
    labels=("model_version",),
    meaning="Share of the training steps in reentry",
)
FAMILIES: Final = (
    *(REQUESTS, PREDICTIONS, TRACKS, ONSETS, DURATION_BUCKET, DURATION_SUM, DURATION_COUNT),
    *(CHECKED_STEPS, OUT_OF_RANGE, STABILITY_INDEX, TRAINING_SHARE),
)

ANSWERED: Final = "answered"
REFUSED: Final = "refused"
OTHER: Final = "other"
"""Label of a version that no folder of the network holds, so that nobody can invent labels without end."""

MOST_VERSIONS: Final = 100
"""Versions that get a label of their own where no folder says which exist, as of models in a bucket."""

PHASES: Final = ("flight", "reentry")
"""Names of the phases 0 and 1."""


class Metric(Protocol):
    """`pb_utils.Metric`, as far as it is used."""

    def increment(self, value: float) -> None:
        """Add."""

    def set(self, value: float) -> None:
        """Take a new value."""


class Registry:
    """Series of the server, made when they are first asked for."""

    def __init__(self, backend: Any) -> None:
        """Take Triton's module `triton_python_backend_utils`, which exists inside the server alone."""
        self._backend = backend
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, tuple[str, ...]], Metric] = {}

    def series(self, family: Family, *labels: str) -> Metric:
        """The series of a family with these values of its labels."""
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
        """Let the server forget a family's series of this process; it does so with the family, not with a series."""
        for key in [key for key in self._series if key[0] == family.name]:
            del self._series[key]
        self._families.pop(family.name, None)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a request leaves behind."""

    tracks: int
    steps: int
    reentry_steps: int
    onsets: int
    seconds: float
    model_version: int
    features: npt.NDArray[np.float32]
    """(N, F)."""


class TrackMetrics:
    """Counts what `track_decision` answers."""

    def __init__(self, registry: Registry, *, network: Path, model_instance: str) -> None:
        """Begin to count.

        Args:
            registry: of the server.
            network: folder of reentry_lstm, whose versions carry the references of drift.
            model_instance: name of this process's instance.
        """
        self._registry = registry
        self._network = network
        self._model_instance = model_instance
        self._seen: deque[_Seen] = deque()
        self._requests = 0
        self._labelled: set[int] = set()
        self._model_version: int | None = None
        self._reference: Reference | None = None
        self._drift: Drift | None = None
        at_zero = [(REQUESTS, ANSWERED), *((PREDICTIONS, phase) for phase in PHASES)]
        at_zero += [(DURATION_BUCKET, bound) for bound in _bounds()]
        for family, label in at_zero:  # a rate needs a value before the first event
            registry.series(family, label)
        for family in (ONSETS, DURATION_SUM, DURATION_COUNT):
            registry.series(family)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def add(
        self,
        *,
        features: npt.NDArray[np.float32],
        phase: npt.NDArray[np.uint8],
        track_length: npt.NDArray[np.integer[Any]],
        onset_step: npt.NDArray[np.integer[Any]],
        model_version: int,
        seconds: float,
    ) -> None:
        """Count an answered request: features (B, K, F), phase (B, T), track length and onset (B,), its time in s."""
        start = self._requests % STEP_STRIDE
        self._requests += 1
        sampled = watched_steps(features.shape[1], every=STEP_STRIDE, start=start)
        inside = np.arange(phase.shape[1]) < track_length[:, None]
        self._seen.append(
            _Seen(
                tracks=len(phase),
                steps=int(track_length.sum()),
                reentry_steps=int(np.count_nonzero(phase * inside)),
                onsets=int(np.count_nonzero(onset_step != NO_ONSET)),
                seconds=seconds,
                model_version=model_version,
                features=features[:, sampled][sampled < track_length[:, None]],
            )
        )

    def flush(self) -> None:
        """Hand over what was counted so far."""
        seen = [self._seen.popleft() for _ in range(len(self._seen))]
        if not seen:
            return
        steps, reentry_steps = sum(s.steps for s in seen), sum(s.reentry_steps for s in seen)
        self._count(REQUESTS, ANSWERED, by=len(seen))
        self._count(PREDICTIONS, PHASES[0], by=steps - reentry_steps)
        self._count(PREDICTIONS, PHASES[1], by=reentry_steps)
        self._count(ONSETS, by=sum(s.onsets for s in seen))
        durations = [s.seconds for s in seen]
        for bound, upper in zip(_bounds(), (*LATENCY_BUCKETS, np.inf), strict=True):
            self._count(DURATION_BUCKET, bound, by=sum(duration <= upper for duration in durations))
        self._count(DURATION_SUM, by=sum(durations))
        self._count(DURATION_COUNT, by=len(durations))
        versions: Counter[int] = Counter()
        for s in seen:
            versions[s.model_version] += s.tracks
        for version, tracks in versions.items():
            label = self._label(version)
            self._count(TRACKS, label, by=tracks)
            if label == OTHER:
                continue
            self._watch(version, np.concatenate([s.features for s in seen if s.model_version == version]), tracks)

    def close(self) -> None:
        """Hand over the rest, and end."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def _label(self, version: int) -> str:
        """The version as a label, if it exists as far as can be known; else `OTHER`."""
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

    def _watch(self, version: int, features: npt.NDArray[np.float32], tracks: int) -> None:
        """Hold (N, F) features of a version's tracks against its reference."""
        if version != self._model_version:
            self._take_up(version)
        if self._drift is None or self._reference is None:
            return
        watched = [FEATURES.index(name) for name in self._drift.watched]
        features = features[np.isfinite(features[:, watched]).all(axis=1)]  # a direct caller may send anything
        if not len(features):
            return
        self._count(CHECKED_STEPS, by=len(features))
        for name, outside in self._drift.add(features, tracks).items():
            self._count(OUT_OF_RANGE, name, by=outside)
        for name, index in self._drift.indices().items():
            used = str(self._reference.features[name].used).lower()
            self._registry.series(STABILITY_INDEX, name, used, str(version), self._model_instance).set(index)

    def _take_up(self, version: int) -> None:
        """Measure against the reference of this version from now on, and take those of the one before away."""
        self._model_version, self._reference, self._drift = version, None, None
        for family in (STABILITY_INDEX, TRAINING_SHARE):
            self._registry.drop(family)
        try:
            self._reference = Reference.load(self._network / str(version))
        except CheckpointError as error:
            print(f"drift of version {version} is not watched: {error}", file=sys.stderr)
        if self._reference is not None:
            self._drift = Drift(self._reference)
            self._registry.series(TRAINING_SHARE, str(version)).set(self._reference.reentry_share)
            for name in self._drift.watched:
                self._registry.series(OUT_OF_RANGE, name)

    def _count(self, family: Family, *labels: str, by: float) -> None:
        if by:
            self._registry.series(family, *labels).increment(by)

    def _run(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception as error:  # metrics must never take the answers down
                print(f"metrics were lost: {error!r}", file=sys.stderr)


def _bounds() -> list[str]:
    """Values of the label `le`, as Prometheus writes them."""
    return [f"{bound:g}" for bound in LATENCY_BUCKETS] + ["+Inf"]
