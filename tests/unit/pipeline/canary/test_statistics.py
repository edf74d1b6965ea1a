"""Confidence bounds of shares, of their differences and of quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canary.figures import histogram
from pipeline.canary.prometheus import Series
from pipeline.canary.statistics import difference, quantile, quantile_estimate, share

TWO_SIDED = 0.975
"""One-sided confidence of the published examples, whose intervals have 95 % on both sides together."""

confidences = st.floats(0.5, 0.9999)
totals = st.floats(1.0, 1e9)
shares = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_that_of_the_published_examples(
    count: int, total: int, low: float, high: float
) -> None:
    found = share(count, total, confidence=TWO_SIDED)
    assert found.value == count / total
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    # Newcombe, "Interval estimation for the difference between independent proportions", 1998, table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_the_interval_of_a_difference_is_that_of_the_published_examples(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    found = difference(share(*one, confidence=TWO_SIDED), share(*other, confidence=TWO_SIDED))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


@given(shares, totals, confidences)
def test_a_share_lies_between_its_bounds(value: float, total: float, confidence: float) -> None:
    found = share(value * total, total, confidence=confidence)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


@given(shares, totals, confidences)
def test_more_observations_of_one_share_narrow_its_interval(value: float, total: float, confidence: float) -> None:
    few, many = (share(value * each, each, confidence=confidence) for each in (total, 2.0 * total))
    assert many.high - many.low <= few.high - few.low + 1e-12


@given(shares, shares, totals, totals, confidences)
def test_a_difference_lies_between_its_bounds_and_changes_its_sign_with_the_order(
    one: float, other: float, ones: float, others: float, confidence: float
) -> None:
    estimates = share(one * ones, ones, confidence=confidence), share(other * others, others, confidence=confidence)
    found, reverse = difference(*estimates), difference(*reversed(estimates))
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    assert (reverse.low, reverse.value, reverse.high) == (-found.high, -found.value, -found.low)


def test_a_count_beyond_the_total_is_one_at_the_total() -> None:
    assert share(10.4, 10.0, confidence=0.95) == share(10.0, 10.0, confidence=0.95)
    assert share(-0.1, 10.0, confidence=0.95) == share(0.0, 10.0, confidence=0.95)


def test_a_bound_covers_the_true_share_as_often_as_its_confidence_says() -> None:
    generator = np.random.default_rng(1)
    counts = generator.binomial(400, 0.03, 4_000)
    covered = {count: share(int(count), 400, confidence=0.95) for count in set(counts)}
    assert np.mean([covered[count].high >= 0.03 for count in counts]) == pytest.approx(0.95, abs=0.025)
    assert np.mean([covered[count].low <= 0.03 for count in counts]) == pytest.approx(0.95, abs=0.025)


BUCKETS = [(0.1, 50.0), (0.2, 90.0), (0.5, 100.0), (math.inf, 100.0)]


@pytest.mark.parametrize(("level", "expected"), [(0.0, 0.0), (0.25, 0.05), (0.5, 0.1), (0.7, 0.15), (1.0, 0.5)])
def test_a_quantile_is_interpolated_inside_its_bucket(level: float, expected: float) -> None:
    assert quantile(BUCKETS, level) == pytest.approx(expected)


def test_a_quantile_beyond_the_last_finite_bound_is_infinite() -> None:
    assert quantile([(0.1, 50.0), (math.inf, 100.0)], 0.9) == math.inf
    assert quantile([(0.1, 0.0), (math.inf, 0.0)], 0.9) == math.inf


def test_few_observations_do_not_bound_a_quantile_from_above() -> None:
    found = [quantile_estimate([(0.1, n), (math.inf, n)], 0.99, confidence=0.95).high for n in (267.0, 268.0)]
    assert found == [math.inf, 0.1]


@pytest.mark.parametrize(("level", "edges"), [(0.25, (0.0, 0.1)), (0.7, (0.1, 0.2)), (0.95, (0.2, 0.5))])
def test_the_bounds_of_a_quantile_are_edges_of_buckets(level: float, edges: tuple[float, float]) -> None:
    found = quantile_estimate(BUCKETS, level, confidence=0.5)
    assert (found.low, found.high) == edges
    assert found.low < found.value < found.high
    wide = quantile_estimate(BUCKETS, 0.88, confidence=0.95)  # the levels are 0.83 and 0.93
    assert (wide.low, wide.high) == (0.1, 0.5)


def test_the_bounds_of_a_quantile_cover_it_as_often_as_their_confidence_says() -> None:
    generator = np.random.default_rng(2)
    true = math.log(100.0)  # the 99th percentile of an exponential distribution
    bounds = np.append(np.linspace(0.0, 20.0, 400), math.inf)
    covered = []
    for _ in range(1_000):
        values = generator.exponential(size=600)
        counts = np.searchsorted(np.sort(values), bounds, side="right")
        found = quantile_estimate(list(zip(bounds.tolist(), counts.tolist(), strict=True)), 0.99, confidence=0.95)
        covered.append((found.low <= true, found.high >= true))
    low, high = np.mean(covered, axis=0)
    assert low == pytest.approx(0.95, abs=0.02)
    assert high == pytest.approx(0.97, abs=0.02)  # steps of whole ranks: the bound is the second largest of 600


def test_the_counts_of_a_histogram_never_fall() -> None:
    series = [Series({"le": bound}, count) for bound, count in (("+Inf", 9.0), ("0.1", 5.0), ("0.5", 10.0))]
    assert histogram(series) == [(0.1, 5.0), (0.5, 10.0), (math.inf, 10.0)]
