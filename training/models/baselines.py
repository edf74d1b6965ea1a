"""Baselines on the same features as the network: thresholds, logistic regression, and boosted trees on windows.

`baselines` creates those for flights like the public data. The study uses the others on noisy ballistic flights.

Shapes: T steps, F features, C columns of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reentry.decision import DecisionConfig
from reentry.errors import InputError
from reentry.features.track import DRAG_SCALE
from reentry.schema import FEATURES, SIMPLE_FEATURES
from training.data.samples import Sample, dividing_values
from training.evaluation.metrics import Prediction, onset_errors

Float64 = npt.NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)

_SIMPLE: Final = len(SIMPLE_FEATURES)
"""Number of simple features, which are the first columns."""

FALLING_DROP: Final = 3_000.0
"""Drop below the highest altitude so far, in m, from which a track counts as falling; more than noise and outliers."""

HIGHEST_REENTRY: Final = 130_000.0
"""Altitude in m above which the deceleration threshold is ignored: the air is too thin for a measurable drag."""

LAGS: Final = (0, 1, 2, 4, 8, 16)
"""Lags, in steps, of the columns in a window of the boosted trees."""

THRESHOLD_TRACKS: Final = 200
"""Number of tracks, evenly chosen, on which a threshold is fitted."""

ONSET_STEPS: Final = 40
"""Distance from an onset, in steps, within which the boosted trees are fitted on every step."""

SHARE_OF_OTHERS: Final = 0.1
"""Share of all other steps on which the boosted trees are fitted."""


class Baseline(Protocol):
    """Method that is fitted on the training split and predicts each step of a track."""

    name: str

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""

    def fit(self, train: Sequence[Sample]) -> None:
        """Fit the parameters on the training split."""

    def probability(self, features: Float64) -> Float64:
        """Predict the probability of reentry at each step, (T, F) -> (T,); the boundary is at 0.5."""


class _GridFitted(Baseline, Protocol):
    """Threshold that is fitted by grid search."""

    def set(self, *setting: Any) -> None:
        """Set the parameters."""


class OnsetAltitude:
    """Reentry is below the mean onset altitude while the track descends."""

    name = "mean onset altitude"
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Compute the mean over the tracks that have an onset."""
        self.altitude = float(np.mean(_at_onset(train, "altitude")))

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        descending = _column(features, "climb_rate") < 0.0
        return np.where(descending, _below(_column(features, "altitude"), self.altitude), 0.0)


class AltitudeFraction:
    """Reentry is below a fraction of the highest altitude: the mean fraction at the onsets."""

    name = "altitude fraction"
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Take the middle between each onset and the step before it, where a threshold has the least error."""
        self.fraction = float(np.mean([_at_onset(train, "altitude_fraction", before) for before in (0, 1)]))

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        return _below(_column(features, "altitude_fraction"), self.fraction)


class ElapsedFraction:
    """Reentry begins at a fraction of the flight: the one that best separates onsets from the steps before them."""

    name = "elapsed fraction"
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Compute the fraction from the onsets and the steps before them."""
        before, at = (torch.from_numpy(_at_onset(train, "elapsed_fraction", steps))[:, None] for steps in (1, 0))
        self.fraction = float(dividing_values(before, at))

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        return _below(-_column(features, "elapsed_fraction"), -self.fraction)


class Logistic:
    """Logistic regression on the simple features of each step by itself.

    Adding the robust features makes it worse: on 90 trapezoids, the onset RMSE over five seeds is 58 s instead of 2 s.
    """

    name = "logistic regression"
    parameters = _SIMPLE + 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Fit with the same total weight for both phases."""
        features = np.concatenate([sample.features.numpy() for sample in train]).astype(np.float64)
        phase = np.concatenate([sample.phase.numpy() for sample in train])
        self.pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        self.pipeline.fit(features[:, :_SIMPLE], phase)

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        probability: Float64 = self.pipeline.predict_proba(features[:, :_SIMPLE])[:, 1]
        return probability


class AltitudeThreshold:
    """Reentry is below an altitude while the track is falling.

    Altitudes are medians over three steps, so that a single outlier cannot cross the threshold.
    """

    name = "altitude threshold"
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Choose the altitude with the least onset error, from 20 to 90 km in steps of 2.5 km."""
        self.altitude = _best_setting(self, train, ((height,) for height in np.arange(20e3, 90e3, 2.5e3)))[0]

    def set(self, altitude: float) -> None:
        """Set the threshold, in m."""
        self.altitude = altitude

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        return np.where(_falling(features), _below(_altitude(features), self.altitude), 0.0)


class DragThreshold:
    """Reentry is above a filtered deceleration for several consecutive steps while the track is falling."""

    name = "deceleration threshold"
    parameters = 3

    def fit(self, train: Sequence[Sample]) -> None:
        """Choose the filter, the threshold and the number of steps with the least onset error."""
        names = [name for name in FEATURES if name.startswith("drag_")]
        thresholds = (0.15, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0, 12.0)
        self.feature, self.drag, self.steps = _best_setting(self, train, product(names, thresholds, (1, 2, 3, 5)))

    def set(self, feature: str, drag: float, steps: int) -> None:
        """Set the feature, the threshold in m/s2, and the number of consecutive steps."""
        self.feature, self.drag, self.steps = feature, drag, steps

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        drag = DRAG_SCALE * np.sinh(_column(features, self.feature))
        above = _falling(features) & (_altitude(features) < HIGHEST_REENTRY)
        lowest = np.where(above, drag, -np.inf)
        for lag in range(1, self.steps):
            lowest = np.minimum(lowest, _before(np.where(above, drag, -np.inf), lag))
        return 1.0 - _below(np.maximum(lowest, -1e6), self.drag)


class BoostedTrees:
    """Gradient-boosted trees on the features of each step and of some earlier steps."""

    name = "boosted trees"

    def __init__(self, trees: int = 200, seed: int = 0) -> None:
        self.trees, self.seed = trees, seed

    @property
    def parameters(self) -> int:
        """Number of nodes in all trees."""
        return sum(len(tree.nodes) for step in self.classifier._predictors for tree in step)

    def fit(self, train: Sequence[Sample]) -> None:
        """Fit on every step near an onset and on one in ten of the others, which differ little from each other."""
        random = np.random.default_rng(self.seed)
        windows, phases = [], []
        for sample in train:
            phase = sample.phase.numpy()
            onset = int(phase.argmax()) if phase.any() else len(phase) + ONSET_STEPS
            chosen = (np.abs(np.arange(len(phase)) - onset) < ONSET_STEPS) | (
                random.random(len(phase)) < SHARE_OF_OTHERS
            )
            windows.append(_window(sample.features.numpy())[chosen])
            phases.append(phase[chosen])
        self.classifier = HistGradientBoostingClassifier(
            max_iter=self.trees, learning_rate=0.1, max_leaf_nodes=31, early_stopping=False, random_state=self.seed
        )
        self.classifier.fit(np.concatenate(windows), np.concatenate(phases))

    def probability(self, features: Float64) -> Float64:
        """See `Baseline.probability`."""
        probability: Float64 = self.classifier.predict_proba(_window(features.astype(np.float32)))[:, 1]
        return probability


def baselines() -> tuple[Baseline, ...]:
    """Create the baselines for flights like the public data, not yet fitted."""
    return OnsetAltitude(), AltitudeFraction(), ElapsedFraction(), Logistic()


def predict_with(baseline: Baseline, samples: Sequence[Sample]) -> list[Prediction]:
    """Predict whole tracks with a fitted baseline."""
    return [
        Prediction(track=sample.track, probability=baseline.probability(sample.features.numpy().astype(np.float64)))
        for sample in samples
    ]


def _falling(features: Float64) -> npt.NDArray[np.bool_]:
    return _column(features, "drop_from_peak") > FALLING_DROP


def _altitude(features: Float64) -> Float64:
    """Altitude in m, (T,), as the median over three steps."""
    altitude = _column(features, "altitude")
    median: Float64 = np.median([altitude, _before(altitude, 1), _before(altitude, 2)], axis=0)
    return median


def _before(values: npt.NDArray[Real], lag: int) -> npt.NDArray[Real]:
    """Values `lag` steps earlier, (T, ...); the first value where there is no earlier step."""
    if lag == 0:
        return values
    earlier: npt.NDArray[Real] = np.concatenate([np.repeat(values[:1], lag, axis=0), values[:-lag]])[: len(values)]
    return earlier


def _window(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Features of each step at all `LAGS`, (T, F) -> (T, C)."""
    return np.concatenate([_before(features, lag) for lag in LAGS], axis=1)


def _best_setting(
    threshold: _GridFitted, train: Sequence[Sample], settings: Iterable[tuple[Any, ...]]
) -> tuple[Any, ...]:
    """Setting with the least onset RMSE on about `THRESHOLD_TRACKS` of the training tracks; the first of equals."""
    decision, mean_square = DecisionConfig(), {}
    train = train[:: max(1, len(train) // THRESHOLD_TRACKS)]
    for setting in settings:
        threshold.set(*setting)
        errors = onset_errors(predict_with(threshold, train), decision)
        mean_square[setting] = float(np.mean(errors**2))
    return min(mean_square, key=lambda setting: mean_square[setting])


def _column(features: Float64, name: str) -> Float64:
    return features[:, FEATURES.index(name)]


def _at_onset(samples: Sequence[Sample], name: str, before: int = 0) -> Float64:
    """Value of a feature `before` steps before each onset; tracks without that step are skipped.

    Raises:
        InputError: no track has that step.
    """
    values = []
    for sample in samples:
        inside = sample.phase.numpy() > 0
        onset = int(inside.argmax()) - before
        if inside.any() and onset >= 0:
            values.append(_column(sample.features.numpy().astype(np.float64), name)[onset])
    if not values:
        raise InputError(
            "no track to fit the baselines on", expected="a track whose reentry begins after its first step"
        )
    return np.array(values)


def _below(value: Float64, threshold: float) -> Float64:
    """Probability that is 0.5 at the threshold and rises as the value falls below it."""
    probability: Float64 = 0.5 - 0.5 * np.tanh(5.0 * (value - threshold) / max(abs(threshold), 1e-9))
    return probability
