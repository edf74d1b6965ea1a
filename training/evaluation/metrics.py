"""Metrics of labelled predictions, per step and per track by the time of the onset.

A track without an onset counts as if reentry began one step after its last step, both in the labels and in the
prediction. A missed onset and a false one therefore enter the onset errors with the full time by which they are wrong.

Shapes: K tracks, T steps, N bins of probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.tracks import Track

FALSE_ALARM_SECONDS: Final = 5.0
"""An alarm more than this long before the onset is false. A later one is merely early, which the onset errors show."""

_IGNORED_BITS: Final = 10
"""Low bits of a float32 that are dropped to get its bin. The remaining bits, read as an integer, keep the order."""
_HALF: Final = int(np.float32(0.5).view(np.uint32)) >> _IGNORED_BITS
"""Bin of the probability 0.5, which is the middle one."""
_BINS: Final = 2 * _HALF + 1

_TRACK_COUNTS: Final = np.dtype(
    [
        ("steps", np.int64),
        ("correct", np.int64),  # steps whose predicted phase is the label
        ("hits", np.int64),  # steps in reentry that were predicted so
        ("predicted", np.int64),  # steps predicted in reentry
        ("labelled", np.int64),  # steps in reentry
        ("has_onset", np.bool_),
        ("found_onset", np.bool_),
        ("step_error", np.int64),  # predicted minus true onset
        ("error", np.float64),  # the same, s
        ("delay", np.float64),  # detection delay, s; NaN without an onset
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One labelled track and the probabilities that a method gives for it."""

    track: Track
    probability: npt.NDArray[np.floating[Any]]
    """Probability of reentry at each step, (T,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics over tracks, with times in s. A ratio whose denominator is 0 is NaN."""

    tracks: int
    steps: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    roc_auc: float
    onset_rmse: float
    onset_mae: float
    onset_worst: float
    """Largest absolute onset error."""
    onset_exact: float
    """Share of the tracks whose onset is the right step."""
    onset_within_step: float
    """Share of the tracks whose onset is off by at most one step."""
    missed_onsets: int
    """Number of tracks with an onset where none was predicted."""
    false_onsets: int
    """Number of tracks without an onset where one was predicted."""
    detection_delay: float
    """Mean time from the onset to the first step at or after it that is predicted in reentry, over tracks with an
    onset."""
    false_alarms: float
    """Tracks in 1,000 with an alarm more than `FALSE_ALARM_SECONDS` before the onset, or with an alarm but no onset."""
    brier: float
    """Mean squared difference between probability and label over the steps: 0 is perfect, 0.25 is a constant 0.5."""

    def as_dict(self) -> dict[str, float]:
        """Value of each metric by name."""
        return asdict(self)


class MetricsAccumulator:
    """Running counts from which `Metrics` are computed. Accumulators of different tracks can be merged.

    Each track is reduced to a few counts, so the result does not depend on how the tracks were divided among
    accumulators. Only the ROC AUC and the Brier score need the steps themselves. Once an accumulator holds
    `exact_steps` steps, it replaces them by sums. The Brier score then differs by rounding alone. The ROC AUC is
    computed over bins of probability, each 2^-13 wide relative to p or to 1 - p. Its error is at most half the share
    of the pairs (one step in reentry, one outside) that fall into the same bin.
    """

    def __init__(self, decision: DecisionConfig, exact_steps: float = math.inf) -> None:
        self._decision = decision
        self._exact_steps = exact_steps
        self._tracks: list[tuple[float, ...]] = []
        self._labels: list[npt.NDArray[np.int8]] = []
        self._probabilities: list[npt.NDArray[np.floating[Any]]] = []
        self._held_steps = 0
        self._squared_error = 0.0
        self._binned: npt.NDArray[np.int64] | None = None
        """Steps outside reentry and in it by bin of probability, (2, N); None while all steps are held."""

    def add(self, prediction: Prediction) -> None:
        """Count one labelled track."""
        self._limit_memory()
        track, labels = prediction.track, labels_of(prediction.track)
        phase = phase_of(prediction.probability, self._decision)
        onset, found = _onset(labels), _onset(phase)
        alarm = onset + _onset(phase[onset:])
        self._tracks.append(
            (
                len(labels),
                int(np.sum(labels == phase)),
                int(np.sum((labels == 1) & (phase == 1))),
                int(phase.sum()),
                int(labels.sum()),
                onset < len(track),
                found < len(track),
                found - onset,
                _time(track, found) - _time(track, onset),
                _time(track, alarm) - _time(track, onset) if onset < len(track) else math.nan,
            )
        )
        self._labels.append(labels)
        self._probabilities.append(prediction.probability)
        self._held_steps += len(labels)

    def merge(self, other: MetricsAccumulator) -> None:
        """Add the counts of another accumulator. Its tracks count as coming after the tracks of this one."""
        self._limit_memory()
        self._tracks += other._tracks
        self._labels += other._labels
        self._probabilities += other._probabilities
        self._held_steps += other._held_steps
        self._squared_error += other._squared_error
        if other._binned is not None:
            self._binned = other._binned + (0 if self._binned is None else self._binned)

    def result(self) -> Metrics:
        """Metrics of all tracks counted so far, at least one."""
        counts = np.array(self._tracks, dtype=_TRACK_COUNTS)
        steps, correct, hits, predicted, labelled = (
            int(counts[name].sum()) for name in ("steps", "correct", "hits", "predicted", "labelled")
        )
        onset, found, error, step_error = (counts[name] for name in ("has_onset", "found_onset", "error", "step_error"))
        if self._binned is None:
            from sklearn.metrics import roc_auc_score  # takes a second to import, and not every process scores

            labels, probability = np.concatenate(self._labels), np.concatenate(self._probabilities)
            roc_auc = float(roc_auc_score(labels, probability)) if 0 < labelled < steps else math.nan
            brier = float(np.mean((probability - labels) ** 2))
        else:
            self._release_steps()
            roc_auc, brier = _binned_roc_auc(self._binned), self._squared_error / steps
        return Metrics(
            tracks=len(counts),
            steps=steps,
            accuracy=correct / steps,
            precision=_ratio(hits, predicted),
            recall=_ratio(hits, labelled),
            f1=_ratio(2 * hits, predicted + labelled),
            roc_auc=roc_auc,
            onset_rmse=float(np.sqrt(np.mean(error**2))),
            onset_mae=float(np.mean(np.abs(error))),
            onset_worst=float(np.max(np.abs(error))),
            onset_exact=float(np.mean(step_error == 0)),
            onset_within_step=float(np.mean(np.abs(step_error) <= 1)),
            missed_onsets=int(np.sum(onset & ~found)),
            false_onsets=int(np.sum(~onset & found)),
            detection_delay=float(np.mean(counts["delay"][onset])) if onset.any() else math.nan,
            false_alarms=1e3 * float(np.mean(found & (~onset | (error < -FALSE_ALARM_SECONDS)))),
            brier=brier,
        )

    def _limit_memory(self) -> None:
        if self._held_steps >= self._exact_steps:
            self._release_steps()

    def _release_steps(self) -> None:
        """Replace the steps that are held by their sums."""
        if self._binned is None:
            self._binned = np.zeros((2, _BINS), dtype=np.int64)
        for labels, probability in zip(self._labels, self._probabilities, strict=True):
            self._squared_error += float(np.sum((probability - labels) ** 2, dtype=np.float64))
            np.add.at(self._binned, (labels, _bins(probability)), 1)
        self._labels, self._probabilities, self._held_steps = [], [], 0


def score(predictions: Iterable[Prediction], decision: DecisionConfig, *, exact_steps: float = math.inf) -> Metrics:
    """Compare predictions with the labels.

    Args:
        predictions: at least one prediction, all for labelled tracks; read once.
        decision: thresholds that turn probabilities into phases.
        exact_steps: number of steps above which the ROC AUC is approximated to bound memory; see
            `MetricsAccumulator`.
    """
    accumulator = MetricsAccumulator(decision, exact_steps)
    for prediction in predictions:
        accumulator.add(prediction)
    return accumulator.result()


def without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    """The same values with None in place of NaN, which JSON cannot hold."""
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def onset_errors(predictions: Iterable[Prediction], decision: DecisionConfig) -> npt.NDArray[np.float64]:
    """Predicted minus true onset of each track, (K,), s; negative is early."""
    return np.array(
        [
            _time(p.track, _onset(phase_of(p.probability, decision))) - _time(p.track, _onset(labels_of(p.track)))
            for p in predictions
        ],
        dtype=np.float64,
    )


def labels_of(track: Track) -> npt.NDArray[np.int8]:
    """Labels of a track that is scored, (T,)."""
    assert track.reentry_phase is not None, "scored tracks are labelled"
    return track.reentry_phase


def _onset(phase: npt.NDArray[np.integer[Any]]) -> int:
    """First step in reentry; the number of steps if no step is."""
    onset = int(onset_of(phase))
    return len(phase) if onset == NO_ONSET else onset


def _time(track: Track, step: int) -> float:
    """Time of a step, s. The step after the last one comes one median step later."""
    if step < len(track):
        return float(track.timestamp[step])
    return float(track.timestamp[-1] + (np.median(np.diff(track.timestamp)) if len(track) > 1 else 0.0))


def _bins(probability: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Bin of each probability, (T,): narrow near 0 and near 1, where float32 probabilities differ by little."""
    upper = probability > 0.5
    low = np.where(upper, 1.0 - probability, np.abs(probability))  # the absolute value turns -0.0 into 0.0
    bins = low.astype(np.float32).view(np.uint32).astype(np.int64) >> _IGNORED_BITS
    return np.where(upper, 2 * _HALF - bins, bins)


def _binned_roc_auc(binned: npt.NDArray[np.int64]) -> float:
    """Share of the pairs in which the step in reentry has the higher probability; a tie counts one half."""
    outside, inside = binned.astype(np.float64)
    below = np.cumsum(outside) - outside
    return _ratio(float(np.sum(inside * (below + outside / 2))), float(inside.sum() * outside.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
