"""Confidence bounds of shares, of the difference of two shares, and of a quantile of a histogram.

Shares have Wilson's score interval, which holds for few observations and for shares of 0 and 1. The difference of two
shares has Newcombe's interval, which combines those of the shares ("Interval estimation for the difference between
independent proportions", Statistics in Medicine 17, 1998, method 10). The number of observations
below the true p-quantile is binomial with probability p, so the bounds of the quantile are observed quantiles at levels
around p. If the upper level is above 1, even the largest observation is no bound. A histogram says only which bucket an
observation is in, so a bound is the edge of that bucket and never a value that is interpolated inside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate with a lower and an upper bound, each of which holds with the chosen confidence."""

    value: float
    low: float
    high: float


def share(count: float, total: float, *, confidence: float) -> Estimate:
    """Estimate a share from `count` of `total` observations, with Wilson's score interval.

    Counts may be fractions, because Prometheus extrapolates increases to the ends of a period.

    Args:
        count: number of observations that count; values outside 0 to `total` are replaced by the nearest of them.
        total: number of all observations, more than 0.
        confidence: one-sided confidence of each bound.
    """
    value = min(max(count / total, 0.0), 1.0)
    z2 = NormalDist().inv_cdf(confidence) ** 2
    middle = (value + z2 / (2.0 * total)) / (1.0 + z2 / total)
    half = math.sqrt(z2) / (1.0 + z2 / total) * math.sqrt(value * (1.0 - value) / total + z2 / (4.0 * total**2))
    # Rounding must not put the estimate outside its own bounds.
    return Estimate(value=value, low=min(max(middle - half, 0.0), value), high=max(min(middle + half, 1.0), value))


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Estimate the difference of two independent shares, `one` minus `other`, with Newcombe's interval."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value=value, low=max(value - below, -1.0), high=min(value + above, 1.0))


def quantile(buckets: Sequence[tuple[float, float]], level: float) -> float:
    """Estimate a quantile as `histogram_quantile` of Prometheus does, but infinite beyond the last finite bound.

    Args:
        buckets: upper bound and cumulative count of each bucket, ascending; the last bound is infinite.
        level: level of the quantile, 0 to 1.
    """
    lower, upper, position = _bucket(buckets, level)
    return math.inf if math.isinf(upper) else lower + (upper - lower) * position


def quantile_estimate(buckets: Sequence[tuple[float, float]], level: float, *, confidence: float) -> Estimate:
    """Estimate a quantile of a histogram with bounds; see `quantile` for the buckets.

    The bounds are edges of buckets. With a confidence of 0.5 they are those of the bucket that has the estimate.
    """
    spread = NormalDist().inv_cdf(confidence) * math.sqrt(level * (1.0 - level) / buckets[-1][1])
    return Estimate(
        value=quantile(buckets, level),
        low=_bucket(buckets, max(level - spread, 0.0))[0],
        high=_bucket(buckets, level + spread)[1] if level + spread <= 1.0 else math.inf,
    )


def _bucket(buckets: Sequence[tuple[float, float]], level: float) -> tuple[float, float, float]:
    """Return the edges of the bucket that has a quantile, and the share of the bucket's observations below it."""
    rank = level * buckets[-1][1]
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= rank and count > below:
            return lower, upper, (rank - below) / (count - below)
        lower, below = upper, count
    return lower, math.inf, 0.0
