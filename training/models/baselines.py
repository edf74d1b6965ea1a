"""What the network has to beat, on the same features: thresholds, a logistic regression, boosted trees on windows.

`baselines` are those of flights like the public data; the study takes the others, for noisy flights through air.

Shapes: T steps, F features, N steps of all tracks, C columns of a window.
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


FALLEN: Final = 3_000.0
"""m below the highest altitude so far from which on a track counts as falling: more than noise and outliers make."""

HIGHEST_REENTRY: Final = 130_000.0
"""m. Above, no drag is taken for one: the air is too thin for any that could be measured."""

LAGS: Final = (0, 1, 2, 4, 8, 16)
"""Steps before now, of a window of boosted trees."""

ENOUGH: Final = 200
"""Tracks to fit a threshold on."""

NEAR: Final = 40
"""Steps around an onset, all of which the trees learn from."""

SHARE_OF_OTHERS: Final = 0.1
"""Of the other steps."""


class Baseline(Protocol):
    """Fitted on the training split alone."""

    name: str

    @property
    def parameters(self) -> int:
        """Numbers that the fit found."""

    def fit(self, train: Sequence[Sample]) -> None:
        """Take what is to be known from the training split."""

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,); 0.5 is the boundary."""


class _Settable(Baseline, Protocol):
    """A threshold that is found by trying."""

    def set(self, *setting: Any) -> None:
        """Take a setting."""


class OnsetAltitude:
    """Reentry is below the mean altitude of the onsets, while descending."""

    name = "mean onset altitude"
    parameters = 1

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
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Midway between the onset and the step before it, which is where a threshold errs least."""
        self.fraction = float(np.mean([_at_onset(train, "altitude_fraction", before) for before in (0, 1)]))

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        return _below(_column(features, "altitude_fraction"), self.fraction)


class ElapsedFraction:
    """Reentry is from a share of the flight on: the share that divides the onsets best from the steps before them."""

    name = "elapsed fraction"
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Take the share from the onsets and the steps before them."""
        before, at = (torch.from_numpy(_at_onset(train, "elapsed_fraction", steps))[:, None] for steps in (1, 0))
        self.fraction = float(dividing_values(before, at))

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        return _below(-_column(features, "elapsed_fraction"), -self.fraction)


class Logistic:
    """Logistic regression, each step by itself, on the simple features.

    With the robust ones beside them it is worse: on five seeds of 90 trapezoids an onset RMSE of 58 s in place of 2 s.
    """

    name = "logistic regression"
    parameters = len(SIMPLE_FEATURES) + 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Both phases weigh the same, as for the network."""
        features = np.concatenate([sample.features.numpy() for sample in train]).astype(np.float64)
        phase = np.concatenate([sample.phase.numpy() for sample in train])
        self.pipeline = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        self.pipeline.fit(_simple(features), phase)

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        probability: Float64 = self.pipeline.predict_proba(_simple(features))[:, 1]
        return probability


def _simple(features: Float64) -> Float64:
    """The columns of the simple features, which are the first."""
    return features[:, : len(SIMPLE_FEATURES)]


class AltitudeThreshold:
    """Reentry is below an altitude, once the track has fallen: the altitude of least onset error.

    Altitudes are medians of three, so that no outlier crosses the threshold.
    """

    name = "altitude threshold"
    parameters = 1

    def fit(self, train: Sequence[Sample]) -> None:
        """Try every 2.5 km from 20 to 90 km."""
        self.altitude = _best(self, train, ((height,) for height in np.arange(20e3, 90e3, 2.5e3)))[0]

    def set(self, altitude: float) -> None:
        """Take a threshold, m."""
        self.altitude = altitude

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        return np.where(_fallen(features), _below(_altitude(features), self.altitude), 0.0)


class DragThreshold:
    """Reentry is above a deceleration of the filtered track, for some steps in a row, once the track has fallen.

    Which of the filtered decelerations, which threshold and how many steps: those of least onset error.
    """

    name = "deceleration threshold"
    parameters = 3

    def fit(self, train: Sequence[Sample]) -> None:
        """Try all combinations."""
        names = [name for name in FEATURES if name.startswith("drag_")]
        thresholds = (0.15, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0, 12.0)
        self.feature, self.drag, self.run = _best(self, train, product(names, thresholds, (1, 2, 3, 5)))

    def set(self, feature: str, drag: float, run: int) -> None:
        """Take a feature, a threshold, m/s2, and a number of steps."""
        self.feature, self.drag, self.run = feature, drag, run

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        drag = DRAG_SCALE * np.sinh(_column(features, self.feature))
        above = _fallen(features) & (_altitude(features) < HIGHEST_REENTRY)
        lowest = np.where(above, drag, -np.inf)
        for lag in range(1, self.run):
            lowest = np.minimum(lowest, _before(np.where(above, drag, -np.inf), lag))
        return 1.0 - _below(np.maximum(lowest, -1e6), self.drag)


class BoostedTrees:
    """Gradient-boosted trees, each step by its own features and those of some steps before."""

    name = "boosted trees"

    def __init__(self, trees: int = 200, seed: int = 0) -> None:
        self.trees, self.seed = trees, seed

    @property
    def parameters(self) -> int:
        """Nodes of all trees."""
        return sum(len(tree.nodes) for step in self.classifier._predictors for tree in step)

    def fit(self, train: Sequence[Sample]) -> None:
        """On every step near an onset, and on one in ten of the others: there is little to learn from those."""
        random = np.random.default_rng(self.seed)
        windows, phases = [], []
        for sample in train:
            phase = sample.phase.numpy()
            onset = int(phase.argmax()) if phase.any() else len(phase) + NEAR
            chosen = (np.abs(np.arange(len(phase)) - onset) < NEAR) | (random.random(len(phase)) < SHARE_OF_OTHERS)
            windows.append(_window(sample.features.numpy())[chosen])
            phases.append(phase[chosen])
        self.classifier = HistGradientBoostingClassifier(
            max_iter=self.trees, learning_rate=0.1, max_leaf_nodes=31, early_stopping=False, random_state=self.seed
        )
        self.classifier.fit(np.concatenate(windows), np.concatenate(phases))

    def probability(self, features: Float64) -> Float64:
        """(T, F) -> (T,)."""
        probability: Float64 = self.classifier.predict_proba(_window(features.astype(np.float32)))[:, 1]
        return probability


def baselines() -> tuple[Baseline, ...]:
    """One of each, not fitted yet."""
    return OnsetAltitude(), AltitudeFraction(), ElapsedFraction(), Logistic()


def predict_with(baseline: Baseline, samples: Sequence[Sample]) -> list[Prediction]:
    """Probabilities of whole tracks by a fitted baseline."""
    return [
        Prediction(track=sample.track, probability=baseline.probability(sample.features.numpy().astype(np.float64)))
        for sample in samples
    ]


def _fallen(features: Float64) -> npt.NDArray[np.bool_]:
    return _column(features, "drop_from_peak") > FALLEN


def _altitude(features: Float64) -> Float64:
    """Median of three, (T,), m."""
    altitude = _column(features, "altitude")
    median: Float64 = np.median([altitude, _before(altitude, 1), _before(altitude, 2)], axis=0)
    return median


def _before(values: npt.NDArray[Real], lag: int) -> npt.NDArray[Real]:
    """(T, ...), the values of so many steps before; the first one's where there are none."""
    if lag == 0:
        return values
    earlier: npt.NDArray[Real] = np.concatenate([np.repeat(values[:1], lag, axis=0), values[:-lag]])[: len(values)]
    return earlier


def _window(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(T, F) -> (T, C), the features of now and of LAGS before."""
    return np.concatenate([_before(features, lag) for lag in LAGS], axis=1)


def _best(threshold: _Settable, train: Sequence[Sample], settings: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The setting of least onset RMSE on the training tracks, `ENOUGH` of them; the first of equals."""
    decision, found = DecisionConfig(), {}
    train = train[:: max(1, len(train) // ENOUGH)]
    for setting in settings:
        threshold.set(*setting)
        errors = onset_errors(predict_with(threshold, train), decision)
        found[setting] = float(np.mean(errors**2))
    return min(found, key=lambda setting: found[setting])


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
