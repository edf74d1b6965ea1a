"""Drift of the scored tracks from day to day: population stability index and Kolmogorov-Smirnov test.

Both compare one number of each track, because the steps of a track are so similar that a test over all steps would
count one track as hundreds of observations. The numbers are:

- peak altitude, duration, time step and number of steps of the track, and its largest probability. They describe what
  the sensors send and what the network answers, cost nothing and are in every row of the inference log.
- the simple features at one step of the track, for one track in `FEATURE_STRIDE`. Only they can be compared with the
  training data, whose reference holds the distribution of each feature over the steps. The step is drawn by a hash, and
  the track counts by its number of steps, so that the numbers have the distribution of the steps.

The stability index is that of the server: `reentry.drift` makes the bins and computes it. Features are compared with
the reference of the version in use, if the gateway has its file, and everything else with the first tracks of the
account. The test compares with these first tracks, because a reference holds deciles and no observations.

Shapes: N tracks of a day, M first tracks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.drift import (
    FIRST_WATCHED_STEP,
    FeatureReference,
    Reference,
    bin_counts,
    feature_reference,
    stability_index,
)
from reentry.features.track import track_features
from reentry.padding import bucket_length, pad_steps
from reentry.schema import FEATURES, SIMPLE_FEATURES

Values = npt.NDArray[np.float64]

FEATURE_STRIDE: Final = 16
"""One in so many tracks has its features in the log: computing them takes longer than scoring the track."""

FEWEST_FOR_INDEX: Final = 200
"""Fewest tracks for a stability index. It is about (bins - 1) / tracks on average without any drift."""

FEWEST_FOR_TEST: Final = 50
"""Fewest tracks of a day for a Kolmogorov-Smirnov test."""

BASELINE_TRACKS: Final = 2_000
"""Number of the first tracks of an account that later days are compared with."""

LARGE_INDEX: Final = 0.25
"""Stability index that counts as a large change, see `reentry.drift.stability_index`."""

TRACK_NUMBERS: Final = ("peak_altitude", "duration", "time_step", "steps", "largest_probability")
"""Numbers that every row of the inference log has."""


def feature_numbers(tracks: Sequence[npt.NDArray[np.float64]], track_ids: Sequence[int]) -> list[dict[str, float]]:
    """Return the simple features at one step of each track; empty for most tracks, and for a track of a single step.

    Args:
        tracks: measurements of each track, columns as `schema.MEASUREMENT_COLUMNS`, (T, M).
        track_ids: ids of the tracks, from which the choice of tracks and steps follows.
    """
    found: list[dict[str, float]] = [{} for _ in tracks]
    chosen: dict[int, list[tuple[int, int]]] = {}
    for place, (measurements, track_id) in enumerate(zip(tracks, track_ids, strict=True)):
        draw = int.from_bytes(blake2b(str(track_id).encode(), digest_size=8, person=b"drift").digest(), "big")
        steps = len(measurements)
        if draw % FEATURE_STRIDE == 0 and steps > FIRST_WATCHED_STEP:
            step = FIRST_WATCHED_STEP + (draw // FEATURE_STRIDE) % (steps - FIRST_WATCHED_STEP)
            chosen.setdefault(bucket_length(steps), []).append((place, step))
    # Tracks of similar length together take half the time of one after another.
    for group in chosen.values():
        # The features of a step do not depend on later steps, so those are left out, or repeat the last one.
        length = max(step for _, step in group) + 1
        table = np.concatenate([pad_steps(tracks[place][None, :length], length) for place, _ in group])
        features = track_features(table, groups=frozenset())
        for row, (place, step) in zip(features, group, strict=True):
            found[place] = {name: float(row[step, FEATURES.index(name)]) for name in SIMPLE_FEATURES}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One number of each of several tracks."""

    values: Values
    """(N,)."""
    weights: Values
    """Weight of each track in a stability index, (N,)."""


def sample_of(name: str, rows: list[Mapping[str, Any]]) -> Sample:
    """Collect one number of the tracks that have it, from rows of the inference log."""
    values, weights = [], []
    for row in rows:
        if name in TRACK_NUMBERS:
            value, weight = _track_number(name, row), 1.0
        else:
            value, weight = row["quantities"].get(name), float(row["steps"] - FIRST_WATCHED_STEP)
        if value is not None and math.isfinite(value):
            values.append(value)
            weights.append(weight)
    return Sample(values=np.array(values, np.float64), weights=np.array(weights, np.float64))


def _track_number(name: str, row: Mapping[str, Any]) -> float | None:
    if name in ("duration", "time_step"):
        duration = row["last_timestamp"] - row["first_timestamp"]
        return float(duration if name == "duration" else duration / max(row["steps"] - 1, 1))
    return float(row[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityDrift:
    """Drift of one number on one day."""

    quantity: str
    tracks: int
    """Tracks of the day that have the number."""
    compared_with: str
    """`training`, or `first tracks`: what the stability index compares with."""
    stability_index: float | None
    """None if there are too few tracks."""
    ks_statistic: float | None
    """Largest distance of the two distribution functions; None if there are too few tracks."""
    p_value: float | None
    """Probability of such a distance without drift, times the number of quantities (Bonferroni), at most 1."""

    @property
    def is_large(self) -> bool:
        """Whether the stability index counts as a large change."""
        return self.stability_index is not None and self.stability_index > LARGE_INDEX


def drift_of(
    day: list[Mapping[str, Any]], baseline: list[Mapping[str, Any]], reference: Reference | None
) -> list[QuantityDrift]:
    """Compare the tracks of a day with the first tracks, and with the training data.

    Args:
        day: rows of the inference log, one for each track of the day.
        baseline: rows of the first tracks.
        reference: reference of the version that answered; None if the gateway does not have it.
    """
    names = (*TRACK_NUMBERS, *SIMPLE_FEATURES)
    return [_drift_of(name, sample_of(name, day), sample_of(name, baseline), reference, len(names)) for name in names]


def _drift_of(name: str, sample: Sample, first: Sample, reference: Reference | None, quantities: int) -> QuantityDrift:
    expected = None if reference is None else reference.features.get(name)
    compared_with = "first tracks" if expected is None else "training"
    if expected is None and len(first.values) >= FEWEST_FOR_INDEX:
        expected = feature_reference(first.values, used=False)
    index = None
    if expected is not None and len(sample.values) >= FEWEST_FOR_INDEX:
        index = psi(sample, expected)
    statistic = p_value = None
    if min(len(sample.values), len(first.values)) >= FEWEST_FOR_TEST:
        statistic = ks_statistic(sample.values, first.values)
        p_value = min(1.0, quantities * ks_p_value(statistic, len(sample.values), len(first.values)))
    return QuantityDrift(
        quantity=name,
        tracks=len(sample.values),
        compared_with=compared_with,
        stability_index=index,
        ks_statistic=statistic,
        p_value=p_value,
    )


def psi(sample: Sample, expected: FeatureReference) -> float:
    """Return the stability index of a sample, over the bins of the server."""
    counts = bin_counts(sample.values, np.asarray(expected.edges), weights=sample.weights)
    return stability_index(counts / counts.sum(), np.array([0.0, *expected.shares, 0.0]))


def ks_statistic(one: Values, other: Values) -> float:
    """Return the largest distance of the empirical distribution functions of two samples, (N,) and (M,)."""
    one, other = np.sort(one), np.sort(other)
    points = np.concatenate([one, other])
    distances = np.searchsorted(one, points, side="right") / len(one)
    distances -= np.searchsorted(other, points, side="right") / len(other)
    return float(np.max(np.abs(distances)))


def ks_p_value(statistic: float, one: int, other: int) -> float:
    """Return the probability of a larger distance between two samples of `one` and `other` values of one distribution.

    The limit distribution of Kolmogorov, Q(x) = 2 sum (-1)^(j-1) exp(-2 j^2 x^2), with the correction of Stephens for
    finite samples ("Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables",
    Journal of the Royal Statistical Society B 32, 1970). For values that occur more than once it is too large, so the
    test is cautious.
    """
    root = math.sqrt(one * other / (one + other))
    x = (root + 0.12 + 0.11 / root) * statistic
    if x < 0.3:  # the sum converges slowly there, and Q is above 0.99999
        return 1.0
    terms = np.arange(1, 21)
    return float(np.clip(2.0 * np.sum((-1.0) ** (terms - 1) * np.exp(-2.0 * (terms * x) ** 2)), 0.0, 1.0))
