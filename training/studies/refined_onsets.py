"""Errors of refined onsets on flights that no method has seen, by the time since the alarm.

Shapes: R speeds, G coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.refinement import refined_onset
from training.data.samples import Sample
from training.evaluation.metrics import Prediction, labels_of, onset_errors

HINDSIGHTS: Final = (0.0, 5.0, 10.0, 20.0)
"""Times since the alarm at which refined onsets are scored, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinedErrors:
    """Errors of the refined onsets of flights."""

    hindsight: float
    """Time since the alarm, s."""
    onset_rmse: float
    """Onset RMSE, s. A flight without an alarm counts as in `training.evaluation.metrics.Metrics`, and one whose onset
    cannot be refined counts with its causal onset."""
    refined: int
    """Number of flights with an onset and a refined onset."""
    spread: float
    """Standard deviation of (refined - true onset) / (its predicted standard deviation) over these flights; 1 if the
    prediction is right, NaN without such flights."""


def refined_errors(
    predictions: Sequence[Prediction],
    samples: Sequence[Sample],
    prior: npt.NDArray[np.float64],
    decision: DecisionConfig,
    hindsights: Iterable[float] = HINDSIGHTS,
) -> list[RefinedErrors]:
    """Score the refined onsets at each time since the alarm.

    Args:
        predictions: predictions of a method.
        samples: the flights that were predicted.
        prior: probability of each coefficient at each speed, (R, G).
        decision: thresholds that raise the alarm.
        hindsights: times since the alarm, s.
    """
    causal = onset_errors(predictions, decision)
    alarms = [int(onset_of(phase_of(prediction.probability, decision))) for prediction in predictions]
    results = []
    for hindsight in hindsights:
        errors, relative = causal.copy(), []
        for number, (sample, alarm) in enumerate(zip(samples, alarms, strict=True)):
            if alarm == NO_ONSET:
                continue
            time = sample.track.timestamp
            end = int(np.searchsorted(time, time[alarm] + hindsight, side="right"))
            refined = refined_onset(sample.features[:end].numpy(), time[:end], alarm, prior)
            if refined is not None:
                errors[number] += refined.timestamp - time[alarm]
                if labels_of(sample.track).any():
                    relative.append(errors[number] / refined.deviation)
        results.append(
            RefinedErrors(
                hindsight=hindsight,
                onset_rmse=float(np.sqrt(np.mean(errors**2))),
                refined=len(relative),
                spread=float(np.std(relative)) if relative else float("nan"),
            )
        )
    return results
