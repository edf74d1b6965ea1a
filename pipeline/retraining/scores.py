"""Errors of both models on the same tracks, and the properties of a track by which they are sliced.

Shapes: K tracks; the second axis of a pair is challenger, champion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.retraining.contestants import Contestant
from reentry.decision import DecisionConfig, phase_of
from reentry.runtime.progress import progress
from reentry.tracks.store import TRACKS_PER_PART
from training.data.samples import Sample
from training.evaluation.groups import range_class, sensors
from training.evaluation.metrics import Prediction, labels_of, onset_errors

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScores:
    """What the comparison needs of K scored tracks."""

    start: Values
    """Time of the first step, Unix time in s, (K,)."""
    errors: Values
    """Predicted minus true onset, s, (K, 2); a missed or false onset has the time by which it is wrong."""
    wrong: Values
    """1 where an onset was missed or is false, otherwise 0, (K, 2)."""
    groups: Mapping[str, npt.NDArray[np.str_]]
    """Name of the group of each track, (K,), by property; empty where the property is unknown."""

    def __len__(self) -> int:
        return len(self.start)

    def select(self, chosen: npt.NDArray[np.bool_]) -> PairedScores:
        """Return the scores of some of the tracks; `chosen` has the shape (K,)."""
        return PairedScores(
            start=self.start[chosen],
            errors=self.errors[chosen],
            wrong=self.wrong[chosen],
            groups={by: names[chosen] for by, names in self.groups.items()},
        )


def score_both(
    challenger: Contestant, champion: Contestant, samples: Sequence[Sample], severities: Mapping[int, str]
) -> PairedScores:
    """Score tracks with two models.

    Args:
        challenger: The first model.
        champion: The second model.
        samples: Labelled tracks with the features of both models.
        severities: Severity of simulated tracks, by track id.
    """
    decision = DecisionConfig()  # the thresholds that are served
    start, errors, wrong = [], [np.empty((0, 2))], [np.empty((0, 2))]
    groups: dict[str, list[str]] = {"severity": [], "sensors": [], "range": []}
    with progress("scoring", len(samples), "tracks") as advance:
        for first in range(0, len(samples), TRACKS_PER_PART):
            part = list(samples[first : first + TRACKS_PER_PART])
            both = [model.predict(part) for model in (challenger, champion)]
            errors.append(np.stack([onset_errors(predictions, decision) for predictions in both], axis=1))
            wrong.append(np.stack([_wrong(predictions, decision) for predictions in both], axis=1))
            for sample in part:
                start.append(float(sample.track.timestamp[0]))
                groups["severity"].append(severities.get(sample.track.track_id, ""))
                groups["sensors"].append(sensors(sample.track))
                groups["range"].append(range_class(sample.track))
            advance(len(part))
    return PairedScores(
        start=np.array(start),
        errors=np.concatenate(errors),
        wrong=np.concatenate(wrong),
        groups={by: np.array(names, dtype=np.str_) for by, names in groups.items()},
    )


def _wrong(predictions: Sequence[Prediction], decision: DecisionConfig) -> Values:
    """Return 1 where exactly one of the prediction and the labels has an onset, (K,)."""
    return np.array(
        [phase_of(each.probability, decision).any() != labels_of(each.track).any() for each in predictions],
        dtype=np.float64,
    )
