"""Figures of more predictions than memory holds: taken in parts of whole tracks, then put together.

Predictions of one part have the figures of `training.evaluation.metrics`, to the bit. Those of several are the same to
rounding. Their ROC AUC is counted over bins of probability, each 2^-13 wide of its value or of what it lacks
to 1: it is off by at most half the share of the pairs, one step in reentry and one outside, whose probabilities are
in one bin.

Shapes: N bins, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.decision import DecisionConfig, phase_of
from training.evaluation.metrics import Metrics, Prediction, Reliability, reliability, score

PART_STEPS: Final = 1_000_000
"""A part ends with the track that reaches so many."""

_BITS: Final = 10
"""Of a float32, that a bin does not tell apart; the others, read as a number, order as probabilities do."""
_HALF: Final = int(np.float32(0.5).view(np.uint32)) >> _BITS
"""The bin of 0.5, in the middle."""
_BINS: Final = 2 * _HALF + 1

Ints = npt.NDArray[np.int64]


def score_in_parts(
    predictions: Iterable[Prediction], decision: DecisionConfig, part_steps: int = PART_STEPS
) -> Metrics:
    """Compare predictions with the labels, as `score` does.

    Args:
        predictions: at least one, all of labelled tracks; gone through once.
        decision: the thresholds that make phases of probabilities.
        part_steps: about so many steps are in memory at once.
    """
    found: list[Metrics] = []
    counts, pairs = [], np.zeros((2, _BINS), dtype=np.int64)
    for part in _parts(predictions, part_steps):
        found.append(score(part, decision))
        counts.append(_counts(part, decision))
        pairs += _binned(part)
    return found[0] if len(found) == 1 else _together(found, np.array(counts), pairs)


def reliability_in_parts(predictions: Iterable[Prediction], part_steps: int = PART_STEPS) -> Reliability:
    """Sort the steps of labelled tracks, at least one, into bins of probability, as `reliability` does."""
    found = [reliability(part) for part in _parts(predictions, part_steps)]
    if len(found) == 1:
        return found[0]
    steps = np.array([part.steps for part in found])
    given = np.nansum(steps * [part.predicted for part in found], axis=0)  # NaN of an empty bin counts nothing
    came = np.nansum(steps * [part.observed for part in found], axis=0)
    with np.errstate(invalid="ignore"):
        total = steps.sum(axis=0)
        return Reliability(steps=total, predicted=given / total, observed=came / total)


def _parts(predictions: Iterable[Prediction], steps: int) -> Iterator[list[Prediction]]:
    part, size = [], 0
    for prediction in predictions:
        part.append(prediction)
        size += len(prediction.probability)
        if size >= steps:
            yield part
            part, size = [], 0
    if part:
        yield part


def _truth(prediction: Prediction) -> npt.NDArray[np.int8]:
    """(T,)."""
    assert prediction.track.reentry_phase is not None, "scored tracks are labelled"
    return prediction.track.reentry_phase


def _counts(part: Sequence[Prediction], decision: DecisionConfig) -> tuple[int, int, int, int]:
    """Steps in reentry in truth and prediction, in prediction, in truth; tracks that have an onset."""
    both = predicted = real = onsets = 0
    for prediction in part:
        truth, phase = _truth(prediction), phase_of(prediction.probability, decision)
        both += int(np.sum((truth == 1) & (phase == 1)))
        predicted += int(phase.sum())
        real += int(truth.sum())
        onsets += bool(truth.any())
    return both, predicted, real, onsets


def _binned(part: Sequence[Prediction]) -> Ints:
    """(2, N), steps outside of reentry and in it, by their probability."""
    binned = np.zeros((2, _BINS), dtype=np.int64)
    for prediction in part:
        upper = prediction.probability > 0.5
        low = np.where(upper, 1.0 - prediction.probability, np.abs(prediction.probability))  # -0.0 is 0.0
        bins = low.astype(np.float32).view(np.uint32).astype(np.int64) >> _BITS
        np.add.at(binned, (_truth(prediction), np.where(upper, 2 * _HALF - bins, bins)), 1)
    return binned


def _together(found: Sequence[Metrics], counts: Ints, pairs: Ints) -> Metrics:
    """The figures of all parts, each weighed by what it is a mean of."""
    tracks, steps = np.array([(part.tracks, part.steps) for part in found]).T
    onsets = counts[:, 3]
    both, predicted, real = counts[:, :3].sum(axis=0).tolist()

    def mean(name: str, weights: Ints) -> float:
        values = np.array([getattr(part, name) for part in found])
        some = weights > 0  # else the figure is NaN
        return float(np.average(values[some], weights=weights[some]))

    rmse = np.array([part.onset_rmse for part in found])
    return Metrics(
        tracks=int(tracks.sum()),
        steps=int(steps.sum()),
        accuracy=mean("accuracy", steps),
        precision=_ratio(both, predicted),
        recall=_ratio(both, real),
        f1=_ratio(2 * both, predicted + real),
        roc_auc=_area(pairs),
        onset_rmse=math.sqrt(np.average(rmse**2, weights=tracks)),
        onset_mae=mean("onset_mae", tracks),
        onset_worst=max(part.onset_worst for part in found),
        onset_exact=mean("onset_exact", tracks),
        onset_within_step=mean("onset_within_step", tracks),
        missed_onsets=sum(part.missed_onsets for part in found),
        false_onsets=sum(part.false_onsets for part in found),
        detection_delay=mean("detection_delay", onsets) if onsets.any() else math.nan,
        false_alarms=mean("false_alarms", tracks),
        brier=mean("brier", steps),
    )


def _area(pairs: Ints) -> float:
    """ROC AUC, the share of pairs in which the step in reentry has the higher probability; equals count half."""
    outside, inside = pairs.astype(np.float64)
    below = np.cumsum(outside) - outside
    return _ratio(float(np.sum(inside * (below + outside / 2))), float(inside.sum() * outside.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
