"""Confidence sequences: confidence intervals that stay valid if somebody looks at them after every track.

A fixed-sample test at level 5 % that is evaluated after each track, and ends the experiment at the first significant
result, finds a difference between two equal versions far more often than in 5 % of the experiments. A confidence
sequence covers the true value at all sample sizes at once with probability 1 - alpha, so an experiment may be stopped
at any time.

`mean_interval` and `difference_interval` are the asymptotic confidence sequences of Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52
(2024), arXiv:2103.06476, theorem 2.2. With t observations of mean m and standard deviation s:

    m +- s * sqrt(2 (t rho^2 + 1) / (t^2 rho^2) * log(sqrt(t rho^2 + 1) / alpha))

`rho` makes the interval narrowest at t = `NARROWEST_AT`: rho^2 = (-2 log(alpha) + log(1 - 2 log(alpha))) / t.

For two arms the estimate is the difference of their means. This is the estimator of that paper for randomised
experiments (augmented inverse probability weighting) if the mean of each arm predicts the arm's values. Its variance
per track is t (s0^2 / n0 + s1^2 / n1), with t = n0 + n1.

Assumptions: tracks are independent, the variant of a track does not affect other tracks, and the values are bounded.
The guarantee is asymptotic. Two measures keep it true for small samples, which the tests confirm by simulation: there
is no interval before `FEWEST` observations, and the variance counts one more observation at each end of the range of
the values. It is therefore never 0, as the variance of the first hundred equal answers is.

Shapes: all numbers may also be arrays of a common shape, such as experiments x looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

ALPHA: Final = 0.05
"""Probability with which any of the intervals of an experiment ever excludes its true value."""

NARROWEST_AT: Final = 1_000
"""Number of observations at which the interval is narrowest relative to its alternatives."""

FEWEST: Final = 100
"""Fewest observations of an arm, or pairs, for an interval."""


class Verdict(StrEnum):
    """What an interval says about a difference, challenger minus control."""

    BETTER = "better"
    WORSE = "worse"
    HIGHER = "higher"
    """The challenger has the higher value of a quantity for which neither direction is better."""
    LOWER = "lower"
    """The challenger has the lower value of such a quantity."""
    NO_DIFFERENCE = "no difference larger than the margin"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Number, mean and variance of bounded observations; each a number or an array of one shape."""

    count: Any
    mean: Any
    variance: Any
    """Variance with one more observation at each end of the range."""

    @classmethod
    def of(cls, count: Any, total: Any, squares: Any, *, low: float, high: float) -> Moments:
        """Compute the moments from sums.

        Args:
            count: number of observations, at least 1.
            total: sum of the observations.
            squares: sum of their squares.
            low: smallest possible observation.
            high: largest possible observation.
        """
        more = count + 2.0
        middle = (total + low + high) / more
        variance = (squares + low**2 + high**2) / more - middle**2
        return cls(count=count, mean=total / count, variance=np.maximum(variance, 0.0))

    @classmethod
    def of_values(cls, values: Values, *, low: float, high: float) -> Moments:
        """Compute the moments of observations (N,) within [low, high]."""
        clipped = np.clip(values, low, high)
        count = max(len(values), 1)
        return cls.of(count, float(clipped.sum()), float(np.square(clipped).sum()), low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Estimate of a difference, with the interval of the confidence sequence around it."""

    estimate: Any
    low: Any
    high: Any

    def verdict(self, *, margin: float, better: int) -> Verdict:
        """Return what the interval says.

        Args:
            margin: largest difference that does not matter.
            better: 1 if larger values are better, -1 if smaller ones are, 0 if neither.
        """
        if self.low > 0.0 or self.high < 0.0:
            higher = self.low > 0.0
            if better == 0:
                return Verdict.HIGHER if higher else Verdict.LOWER
            return Verdict.BETTER if higher == (better > 0) else Verdict.WORSE
        if -margin <= self.low and self.high <= margin:
            return Verdict.NO_DIFFERENCE
        return Verdict.UNDECIDED


def mean_interval(differences: Moments, *, alpha: float = ALPHA) -> Interval:
    """Return the interval of the mean difference of pairs, in which both versions scored the same track."""
    half = half_width(differences.count, differences.variance, alpha)
    return Interval(estimate=differences.mean, low=differences.mean - half, high=differences.mean + half)


def difference_interval(control: Moments, challenger: Moments, *, alpha: float = ALPHA) -> Interval:
    """Return the interval of the difference of the means of two arms, challenger minus control."""
    tracks = control.count + challenger.count
    variance = tracks * (control.variance / control.count + challenger.variance / challenger.count)
    half = half_width(tracks, variance, alpha)
    estimate = challenger.mean - control.mean
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


def half_width(count: Any, variance: Any, alpha: float) -> Any:
    """Return the half width of the confidence sequence after `count` observations of a variance."""
    rho2 = (-2.0 * np.log(alpha) + np.log(-2.0 * np.log(alpha) + 1.0)) / NARROWEST_AT
    scaled = count * rho2 + 1.0
    return np.sqrt(variance * 2.0 * scaled / (count**2 * rho2) * np.log(np.sqrt(scaled) / alpha))
