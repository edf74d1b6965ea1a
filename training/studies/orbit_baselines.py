"""Methods without a network that use the orbit filter: the filter alone, and boosted trees on what a network gets.

Shapes: T steps, F features, R speeds, G coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS, has_begun, posterior
from reentry.schema import FEATURES, ORBIT_FEATURES
from training.data.samples import Sample, Statistics
from training.evaluation.metrics import Prediction
from training.models.baselines import BoostedTrees, predict_with
from training.models.orbit_inputs import OrbitInputs
from training.models.orbit_prior import learned_prior

Float64 = npt.NDArray[np.float64]

FLAT: Final = np.full((len(SPEEDS), len(COEFFICIENTS)), 1.0 / len(COEFFICIENTS))
"""Prior under which all coefficients of the grid are equally probable, (R, G)."""

_ORBIT: Final = [FEATURES.index(name) for name in ORBIT_FEATURES]


def prior_of(train: Sequence[Sample]) -> Float64:
    """Return the prior that networks learn from training flights, (R, G)."""
    return learned_prior(Statistics.of(train, 1).settled.numpy())


class OrbitFilterAlone:
    """The probability that the onset has passed, as the orbit filter and a prior give it; 0 where nothing is known."""

    name = "orbit filter"
    parameters = len(SPEEDS) * len(COEFFICIENTS)

    def __init__(self, prior: Float64 = FLAT) -> None:
        self.prior = prior

    def fit(self, train: Sequence[Sample]) -> None:
        """Learn the prior."""
        self.prior = prior_of(train)

    def probability(self, features: Float64) -> Float64:
        """Predict the probability of reentry at each step, (T, F) -> (T,)."""
        probability = np.zeros(len(features))
        at = features[:, _ORBIT[0]] > 0.0
        _, drag_factor, deviation, peak, _, speed = features[at][:, _ORBIT].T
        probability[at] = has_begun(posterior(drag_factor, deviation, speed, self.prior), peak)
        return probability


class OrbitTrees:
    """Boosted trees on the features of a network, and on what the network gets from the orbit filter."""

    def __init__(self, trees: BoostedTrees, features: Sequence[str]) -> None:
        """Prepare unfitted trees.

        Args:
            trees: the trees.
            features: names of the features, which include all orbit features.
        """
        self.trees = trees
        self._chosen = [FEATURES.index(name) for name in features]
        self._orbit = OrbitInputs()

    def fit(self, train: Sequence[Sample]) -> None:
        """Learn the prior and fit the trees."""
        self._orbit.prior.copy_(torch.from_numpy(prior_of(train)))
        self.trees.fit([self.columns(sample) for sample in train])

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Predict whole tracks."""
        return predict_with(self.trees, [self.columns(sample) for sample in samples])

    @torch.no_grad()
    def columns(self, sample: Sample) -> Sample:
        """Return the sample with the columns that the trees are fitted on in place of its features."""
        x = sample.features
        inputs = self._orbit(dict(zip(ORBIT_FEATURES, x[:, _ORBIT].unbind(-1), strict=True)))
        return replace(sample, features=torch.cat([x[:, self._chosen], torch.stack(inputs, dim=-1)], dim=1))
