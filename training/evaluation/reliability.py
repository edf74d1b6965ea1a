"""Reliability of predicted probabilities: how often a step with a given probability is in reentry.

Shapes: N bins of probability.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import Prediction, labels_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Predicted probability and observed frequency of reentry in N bins of equal width between 0 and 1.

    A calibrated model has the same value in both.
    """

    steps: npt.NDArray[np.int64]
    """Number of steps in each bin, (N,)."""
    predicted: npt.NDArray[np.float64]
    """Mean probability of the steps in each bin, (N,); NaN in an empty bin."""
    observed: npt.NDArray[np.float64]
    """Share of the steps in each bin that are in reentry, (N,); NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |predicted - observed|, weighted by the steps of each bin."""
        filled = self.steps > 0
        return float(np.average(np.abs(self.predicted - self.observed)[filled], weights=self.steps[filled]))


def reliability(predictions: Iterable[Prediction], bins: int = 10) -> Reliability:
    """Count the steps of labelled tracks, at least one, in bins of probability; each prediction is read once."""
    steps, probabilities, in_reentry = np.zeros(bins, dtype=np.int64), np.zeros(bins), np.zeros(bins)
    for prediction in predictions:
        probability = prediction.probability.astype(np.float64)
        index = np.minimum((probability * bins).astype(np.int64), bins - 1)
        np.add.at(steps, index, 1)
        np.add.at(probabilities, index, probability)
        np.add.at(in_reentry, index, labels_of(prediction.track))
    with np.errstate(invalid="ignore"):
        return Reliability(steps=steps, predicted=probabilities / steps, observed=in_reentry / steps)
