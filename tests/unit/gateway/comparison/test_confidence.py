"""The confidence sequences hold their level if somebody looks after every track, and find true differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from gateway.comparison.confidence import (
    ALPHA,
    FEWEST,
    Interval,
    Moments,
    Verdict,
    difference_interval,
    half_width,
    mean_interval,
)

Draw = Callable[[Generator, tuple[int, int]], np.ndarray]

RUNS, TRACKS = 1_000, 3_000
TOLERANCE = 3.0 * np.sqrt(ALPHA * (1.0 - ALPHA) / RUNS)
"""Three standard deviations of a share of 5 % among the runs."""

RANGES: dict[str, tuple[Draw, float, float]] = {
    "alarms": (lambda draw, shape: (draw.random(shape) < 0.9).astype(float), 0.0, 1.0),
    "rare": (lambda draw, shape: (draw.random(shape) < 0.02).astype(float), 0.0, 1.0),
    "probability": (lambda draw, shape: draw.beta(8.0, 0.5, shape), 0.0, 1.0),
    "onset error": (lambda draw, shape: np.minimum(draw.exponential(3.0, shape), 60.0), 0.0, 60.0),
}


def running(values: np.ndarray, low: float, high: float) -> Moments:
    """Moments after each track of each run, (R, N)."""
    count = np.arange(1, values.shape[1] + 1, dtype=float)
    return Moments.of(count, values.cumsum(axis=1), np.square(values).cumsum(axis=1), low=low, high=high)


def arms(values: np.ndarray, is_challenger: np.ndarray, low: float, high: float) -> list[Moments]:
    """Moments of both arms after each track of each run, (R, N)."""
    return [
        Moments.of(
            np.maximum(chosen.cumsum(axis=1), 1.0),
            (values * chosen).cumsum(axis=1),
            (np.square(values) * chosen).cumsum(axis=1),
            low=low,
            high=high,
        )
        for chosen in (~is_challenger, is_challenger)
    ]


def squared_error(arm: Moments, high: float) -> np.ndarray:
    """Squared standard error of the mean of values from 0 to `high`, without the two more observations."""
    more = arm.count + 2.0
    squares = more * (arm.variance + ((arm.mean * arm.count + high) / more) ** 2) - high**2
    return np.maximum(squares / arm.count - arm.mean**2, 0.0) / arm.count


def ever_excludes(interval: Interval, value: float, enough: np.ndarray) -> float:
    """Share of the runs in which the interval excludes a value at any look with enough observations."""
    return float((((interval.low > value) | (interval.high < value)) & enough).any(axis=1).mean())


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("name", RANGES)
def test_two_equal_arms_differ_in_at_most_5_percent_of_the_experiments(name: str, share: float) -> None:
    draw, low, high = RANGES[name]
    generator = default_rng(1)
    values = draw(generator, (RUNS, TRACKS))
    control, challenger = arms(values, generator.random((RUNS, TRACKS)) < share, low, high)
    enough = np.minimum(control.count, challenger.count) >= FEWEST
    assert enough[:, -1].all()
    assert ever_excludes(difference_interval(control, challenger), 0.0, enough) <= ALPHA + TOLERANCE


def test_a_test_of_a_fixed_sample_that_is_looked_at_after_every_track_raises_many_false_alarms() -> None:
    draw, low, high = RANGES["onset error"]
    generator = default_rng(1)
    values = draw(generator, (RUNS, TRACKS))
    control, challenger = arms(values, generator.random((RUNS, TRACKS)) < 0.5, low, high)
    enough = np.minimum(control.count, challenger.count) >= 30
    deviation = np.sqrt(sum(squared_error(arm, high) for arm in (control, challenger)))
    significant = np.abs(challenger.mean - control.mean) > 1.96 * deviation
    at_the_end = significant[:, -1].mean()
    assert at_the_end <= ALPHA + TOLERANCE  # a single look keeps the level
    assert (significant & enough).any(axis=1).mean() > 0.35


@pytest.mark.parametrize("name", ["disagreement", "earlier onset"])
def test_pairs_without_a_difference_are_found_different_in_at_most_5_percent(name: str) -> None:
    generator = default_rng(2)
    if name == "disagreement":  # one track in fifty is an alarm of one version alone
        values, limit = generator.choice([-1.0, 0.0, 1.0], (RUNS, TRACKS), p=[0.01, 0.98, 0.01]), 1.0
    else:
        values, limit = np.clip(generator.standard_t(3.0, (RUNS, TRACKS)), -60.0, 60.0), 60.0
    interval = mean_interval(running(values, -limit, limit))
    assert ever_excludes(interval, 0.0, np.arange(1, TRACKS + 1) >= FEWEST) <= ALPHA + TOLERANCE


def test_a_true_difference_is_found_with_its_direction() -> None:
    generator = default_rng(3)
    is_challenger = generator.random((200, TRACKS)) < 0.5
    # The mean errors are 3 s and 2.2 s.
    values = np.minimum(generator.exponential(np.where(is_challenger, 2.2, 3.0)), 60.0)
    control, challenger = arms(values, is_challenger, 0.0, 60.0)
    interval = difference_interval(control, challenger)
    assert (interval.high[:, -1] < 0.0).mean() > 0.95
    pairs = mean_interval(running(values - 3.0, -60.0, 60.0))
    assert ever_excludes(pairs, -0.4, np.arange(TRACKS) >= FEWEST) < 0.1  # it covers the mean of both arms


def test_the_variance_is_not_zero_if_all_observations_are_equal() -> None:
    moments = Moments.of_values(np.ones(100), low=0.0, high=1.0)
    assert (moments.count, moments.mean) == (100, 1.0)
    assert moments.variance == pytest.approx(101 / 102 - (101 / 102) ** 2)
    interval = difference_interval(moments, moments)
    assert interval.high == -interval.low > 0.02
    assert Moments.of_values(np.ones(10_000), low=0.0, high=1.0).variance < moments.variance / 50


def test_the_half_width_is_that_of_the_formula() -> None:
    assert half_width(1_000, 4.0, 0.05) == pytest.approx(0.19196, abs=1e-5)
    assert half_width(np.array([100.0, 10_000.0]), 1.0, 0.05) == pytest.approx([0.3855, 0.03242], abs=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (0.1, 0.2, 1, Verdict.BETTER),
        (0.1, 0.2, -1, Verdict.WORSE),
        (-0.2, -0.1, -1, Verdict.BETTER),
        (-0.2, -0.1, 0, Verdict.LOWER),
        (0.1, 0.2, 0, Verdict.HIGHER),
        (-0.1, 0.2, 1, Verdict.NO_DIFFERENCE),
        (-0.1, 0.3, 1, Verdict.UNDECIDED),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_margin(
    low: float, high: float, better: int, verdict: Verdict
) -> None:
    assert Interval(estimate=0.0, low=low, high=high).verdict(margin=0.2, better=better) == verdict
