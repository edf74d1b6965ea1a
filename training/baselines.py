"""What the network has to beat: two thresholds and a logistic regression on the same features.

Shapes: T steps, F features, N steps of all tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reentry.errors import InputError
from reentry.schema import FEATURES
from training.data import Sample
from training.metrics import Prediction

Float64 = npt.NDArray[np.float64]


class Baseline(Protocol):
    """Fitted on the training split alone."""

    name: str

    def fit(self, train: Sequence[Sample]) -> None:
        """Take what is to be known from the training split."""

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,); 0.5 is the boundary."""


class OnsetAltitude:
    """Reentry is below the mean altitude of the onsets, while descending."""

    name = "mean onset altitude"

    def fit(self, train: Sequence[Sample]) -> None:
        """Mean over the tracks that have an onset."""
        self.altitude = float(np.mean(_at_onset(train, "altitude")))

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        descending = _column(features, "climb_rate") < 0.0
        return np.where(descending, _below(_column(features, "altitude"), self.altitude), 0.0)


class AltitudeFraction:
    """Reentry is below the mean share of the highest altitude that is left at the onsets."""

    name = "altitude fraction"

    def fit(self, train: Sequence[Sample]) -> None:
        """Midway between the onset and the step before it, which is where a threshold errs least."""
        self.fraction = float(np.mean([_at_onset(train, "altitude_fraction", before) for before in (0, 1)]))

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        return _below(_column(features, "altitude_fraction"), self.fraction)


class Logistic:
    """Logistic regression, each step by itself, on all features."""

    name = "logistic regression"

    def fit(self, train: Sequence[Sample]) -> None:
        """Both phases weigh the same, as for the network."""
        features = np.concatenate([sample.features.numpy() for sample in train]).astype(np.float64)
        phase = np.concatenate([sample.phase.numpy() for sample in train])
        self.pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        self.pipeline.fit(features, phase)

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        probability: Float64 = self.pipeline.predict_proba(features)[:, 1]
        return probability


def baselines() -> tuple[Baseline, ...]:
    """One of each, not fitted yet."""
    return OnsetAltitude(), AltitudeFraction(), Logistic()


def predict_with(baseline: Baseline, samples: Sequence[Sample]) -> list[Prediction]:
    """Probabilities of whole tracks by a fitted baseline."""
    return [
        Prediction(track=sample.track, probability=baseline.probability(sample.features.numpy().astype(np.float64)))
        for sample in samples
    ]


def _column(features: Float64, name: str) -> Float64:
    return features[:, FEATURES.index(name)]


def _at_onset(samples: Sequence[Sample], name: str, before: int = 0) -> Float64:
    """A feature so many steps before the onset of each track; tracks without that step are left out.

    Raises:
        InputError: none is left.
    """
    values = []
    for sample in samples:
        inside = sample.phase.numpy() > 0
        onset = int(inside.argmax()) - before
        if inside.any() and onset >= 0:
            values.append(_column(sample.features.numpy().astype(np.float64), name)[onset])
    if not values:
        raise InputError("no track to fit the baselines on", expected="one that enters reentry after its first step")
    return np.array(values)


def _below(value: Float64, threshold: float) -> Float64:
    """A probability that is 0.5 at the threshold, rises below it, and ranks steps as the threshold would."""
    probability: Float64 = 0.5 - 0.5 * np.tanh(5.0 * (value - threshold) / max(abs(threshold), 1e-9))
    return probability
