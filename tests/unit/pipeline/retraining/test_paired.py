"""Paired bootstrap, swap test and Holm's adjustment, against exact values and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.retraining.paired import Difference, Measure, Values, compare, holm

RMSE = Measure(name="onset RMSE", unit="s", of_mean=np.sqrt)
SHARE = Measure(name="share", unit="", of_mean=lambda mean: mean)


def compared(measure: Measure, challenger: Values, champion: Values, *, resamples: int = 2000) -> Difference:
    generator = np.random.default_rng(0)
    return compare(measure, challenger, champion, generator=generator, resamples=resamples)


def test_equal_errors_have_no_difference_and_an_empty_interval() -> None:
    errors = np.random.default_rng(1).normal(size=50) ** 2
    found = compared(RMSE, errors, errors)
    assert (found.estimate, found.low, found.high, found.p_worse, found.p_better) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_the_swap_test_has_its_exact_p_value_where_one_model_alone_fails() -> None:
    challenger = np.array([1.0] * 5 + [0.0] * 45)
    found = compared(SHARE, challenger, np.zeros(50), resamples=20_000)
    assert found.p_worse == pytest.approx(1 / 32, abs=0.005)  # all five failures on one side, of 2**5 assignments
    assert found.p_better == 1.0
    assert found.estimate == pytest.approx(0.1)


def test_the_models_may_be_exchanged() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(0.0, 2.0, 80) ** 2, random.normal(0.0, 1.0, 80) ** 2
    forth, back = compared(RMSE, first, second), compared(RMSE, second, first)
    assert forth.estimate == pytest.approx(-back.estimate)
    assert forth.low == pytest.approx(-back.high, abs=0.05)
    assert forth.p_worse == pytest.approx(back.p_better, abs=0.01)
    assert forth.p_worse < 0.01 < forth.p_better


def test_the_same_seed_gives_the_same_result() -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(size=(2, 40)) ** 2
    assert compared(RMSE, first, second) == compared(RMSE, first, second)


def test_the_interval_covers_the_true_difference_in_about_95_of_100_experiments() -> None:
    random, covered = np.random.default_rng(4), 0
    for _ in range(200):
        shared = random.normal(0.0, 1.0, 100)
        challenger = shared + random.normal(0.0, np.sqrt(1.25), 100)  # RMSE 1.5, the champion's is sqrt(1.25)
        found = compared(RMSE, challenger**2, (shared + random.normal(0.0, 0.5, 100)) ** 2, resamples=400)
        covered += found.low <= 1.5 - np.sqrt(1.25) <= found.high
    assert covered >= 180


@pytest.mark.parametrize("tracks", [20, 60])
def test_equal_models_with_rare_large_errors_differ_in_at_most_5_of_100_experiments(tracks: int) -> None:
    """The bootstrap alone would find a difference in about 10 of 100 here."""
    random, rejected = np.random.default_rng(5), 0
    for _ in range(300):
        large = random.random((2, tracks)) < 0.03
        errors = random.normal(size=(2, tracks)) * np.where(large, random.uniform(20, 90, (2, tracks)), 0.5)
        rejected += compared(RMSE, errors[0] ** 2, errors[1] ** 2, resamples=400).p_worse <= 0.05
    assert rejected <= 26  # 15 expected, three standard deviations above


def test_holm_adjusts_p_values_as_in_a_worked_example() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.2]), [0.2])
