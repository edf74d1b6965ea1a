"""How good a prediction is: per step, and per track by the time of the onset.

A track without onset counts as if reentry began one step after its end, in the truth and in the prediction alike. So a
missed onset and a false one weigh in the errors with all the time they are wrong by, and none is dropped.

Shapes: K tracks, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.tracks import Track

FALSE_ALARM_SECONDS: Final = 5.0
"""An alarm by so much before the onset is false; a later one is early, which the onset errors hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One labelled track and what a model says of it."""

    track: Track
    probability: npt.NDArray[np.floating[Any]]
    """(T,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures over tracks; times in s. A ratio without cases is NaN."""

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
    """Largest absolute error."""
    onset_exact: float
    """Share of the tracks whose onset is the right step."""
    onset_within_step: float
    """Share of the tracks whose onset is off by one step at most."""
    missed_onsets: int
    """Tracks with an onset where none was predicted."""
    false_onsets: int
    """Tracks without an onset where one was predicted."""
    detection_delay: float
    """Mean over the tracks with an onset: from it to the first step in reentry that is not before it."""
    false_alarms: float
    """Tracks in 1,000 with an alarm more than `FALSE_ALARM_SECONDS` before the onset, or without one to warn of."""
    brier: float
    """Mean squared difference of probability and label over the steps: 0 is certain and right, 0.25 says nothing."""

    def as_dict(self) -> dict[str, float]:
        """Names and figures."""
        return asdict(self)


def score(predictions: Sequence[Prediction], decision: DecisionConfig) -> Metrics:
    """Compare predictions with the labels.

    Args:
        predictions: at least one, all of labelled tracks.
        decision: the thresholds that make phases of probabilities.
    """
    truth = np.concatenate([_labels(p.track) for p in predictions])
    phase = np.concatenate([phase_of(p.probability, decision) for p in predictions])
    probability = np.concatenate([p.probability for p in predictions])
    hits = int(np.sum((truth == 1) & (phase == 1)))
    precision, recall = _ratio(hits, int(phase.sum())), _ratio(hits, int(truth.sum()))

    wrong_steps = np.array([_onset(p, decision) - _true_onset(p) for p in predictions])
    error = onset_errors(predictions, decision)
    found = np.array([onset_of(phase_of(p.probability, decision)) != NO_ONSET for p in predictions])
    real = np.array([onset_of(_labels(p.track)) != NO_ONSET for p in predictions])
    return Metrics(
        tracks=len(predictions),
        steps=len(truth),
        accuracy=float(np.mean(truth == phase)),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * hits, int(phase.sum()) + int(truth.sum())),
        roc_auc=float(roc_auc_score(truth, probability)) if 0 < truth.sum() < len(truth) else float("nan"),
        onset_rmse=float(np.sqrt(np.mean(error**2))),
        onset_mae=float(np.mean(np.abs(error))),
        onset_worst=float(np.max(np.abs(error))),
        onset_exact=float(np.mean(wrong_steps == 0)),
        onset_within_step=float(np.mean(np.abs(wrong_steps) <= 1)),
        missed_onsets=int(np.sum(real & ~found)),
        false_onsets=int(np.sum(~real & found)),
        detection_delay=float(np.mean(_delays(predictions, decision))) if real.any() else float("nan"),
        false_alarms=1e3 * float(np.mean(found & (~real | (error < -FALSE_ALARM_SECONDS)))),
        brier=float(np.mean((probability - truth) ** 2)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Steps by what they were given, beside what came of them: calibrated where both are the same.

    Shapes: N bins of probability, evenly over 0 to 1.
    """

    steps: npt.NDArray[np.int64]
    """(N,), how many there are in each bin."""
    predicted: npt.NDArray[np.float64]
    """(N,), their mean probability; NaN in an empty bin."""
    observed: npt.NDArray[np.float64]
    """(N,), their share in reentry; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Mean of |predicted - observed|, each bin by its steps: the expected calibration error."""
        filled = self.steps > 0
        return float(np.average(np.abs(self.predicted - self.observed)[filled], weights=self.steps[filled]))


def reliability(predictions: Sequence[Prediction], bins: int = 10) -> Reliability:
    """Sort the steps of labelled tracks, at least one, into bins of probability."""
    truth = np.concatenate([_labels(p.track) for p in predictions])
    probability = np.concatenate([p.probability for p in predictions]).astype(np.float64)
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    steps, given, came = (np.bincount(which, weights=of, minlength=bins) for of in (None, probability, truth))
    with np.errstate(invalid="ignore"):
        return Reliability(steps=steps, predicted=given / steps, observed=came / steps)


def without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures as JSON can hold them: None in place of NaN."""
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def onset_errors(predictions: Sequence[Prediction], decision: DecisionConfig) -> npt.NDArray[np.float64]:
    """Predicted minus true onset of each track, (K,), s: negative is early."""
    return np.array(
        [_time(p.track, _onset(p, decision)) - _time(p.track, _true_onset(p)) for p in predictions], dtype=np.float64
    )


def _delays(predictions: Sequence[Prediction], decision: DecisionConfig) -> list[float]:
    """Of the tracks with an onset, s; a missed one lasts until one step after the end."""
    delays = []
    for p in predictions:
        onset = _true_onset(p)
        if onset < len(p.track):
            found = int(onset_of(phase_of(p.probability, decision)[onset:]))
            alarm = len(p.track) if found == NO_ONSET else onset + found
            delays.append(_time(p.track, alarm) - _time(p.track, onset))
    return delays


def _labels(track: Track) -> npt.NDArray[np.int8]:
    assert track.reentry_phase is not None, "scored tracks are labelled"
    return track.reentry_phase


def _onset(prediction: Prediction, decision: DecisionConfig) -> int:
    return _or_end(int(onset_of(phase_of(prediction.probability, decision))), prediction.track)


def _true_onset(prediction: Prediction) -> int:
    return _or_end(int(onset_of(_labels(prediction.track))), prediction.track)


def _or_end(onset: int, track: Track) -> int:
    return len(track) if onset == NO_ONSET else onset


def _time(track: Track, step: int) -> float:
    """Time of a step, s; the step after the last comes one median step later."""
    if step < len(track):
        return float(track.timestamp[step])
    return float(track.timestamp[-1] + (np.median(np.diff(track.timestamp)) if len(track) > 1 else 0.0))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
