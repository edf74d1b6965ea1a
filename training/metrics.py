"""How good a prediction is: per step, and per track by the time of the onset.

A track without onset counts as if reentry began one step after its end, in the truth and in the prediction alike. So a
missed onset and a false one weigh in the errors with all the time they are wrong by, and none is dropped.

Shapes: K tracks, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.tracks import Track


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
    )


def without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures as JSON can hold them: None in place of NaN."""
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def onset_errors(predictions: Sequence[Prediction], decision: DecisionConfig) -> npt.NDArray[np.float64]:
    """Predicted minus true onset of each track, (K,), s: negative is early."""
    return np.array(
        [_time(p.track, _onset(p, decision)) - _time(p.track, _true_onset(p)) for p in predictions], dtype=np.float64
    )


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
