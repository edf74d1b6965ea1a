"""The prior learned from what the orbit filter knows of training flights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.schema import FEATURES
from training.models import orbit_prior
from training.models.orbit_prior import learned_prior


def settled(coefficient: npt.NDArray[np.float64], speed: float, deviation: float = 0.02) -> npt.NDArray[np.float32]:
    """Features of flights whose drag factor is known up to a deviation, (N, F)."""
    random = np.random.default_rng(0)
    features = np.zeros((len(coefficient), len(FEATURES)), np.float32)
    values = {
        "orbit_known": 1.0,
        "orbit_drag_factor": 1e3 / coefficient + deviation * random.normal(size=len(coefficient)),
        "orbit_drag_deviation": deviation,
        "orbit_entry_speed": speed,
    }
    for name, value in values.items():
        features[:, FEATURES.index(name)] = value
    return features


def test_the_prior_has_the_coefficients_of_the_flights() -> None:
    random = np.random.default_rng(1)
    heavy = np.exp(random.uniform(np.log(1_500.0), np.log(15_000.0), 600))
    prior = learned_prior(settled(heavy, 5_500.0))
    assert prior.shape == (len(SPEEDS), len(COEFFICIENTS))
    np.testing.assert_allclose(prior.sum(axis=1), 1.0)
    assert prior[4, (COEFFICIENTS > 1_200.0) & (COEFFICIENTS < 20_000.0)].sum() > 0.95


def test_each_speed_has_its_own_coefficients() -> None:
    slow, fast = settled(np.full(300, 5_000.0), 1_500.0), settled(np.full(300, 200.0), 7_500.0)
    prior = learned_prior(np.concatenate([slow, fast]))
    light = COEFFICIENTS < 1_000.0
    assert prior[0, light].sum() < 0.1
    assert prior[-1, light].sum() > 0.9


def test_a_speed_without_flights_gets_the_mean_of_all() -> None:
    prior = learned_prior(settled(np.full(300, 5_000.0), 1_500.0))
    assert prior[-1, (COEFFICIENTS > 4_000.0) & (COEFFICIENTS < 6_500.0)].sum() > 0.7


def test_uncertain_estimates_are_not_taken_for_many_coefficients() -> None:
    # The estimates scatter by a fifth, but all flights have the same coefficient.
    prior = learned_prior(settled(np.full(400, 500.0), 5_500.0, deviation=0.4))
    assert prior[4, (COEFFICIENTS > 400.0) & (COEFFICIENTS < 630.0)].sum() > 0.75


def test_without_flights_all_coefficients_are_equally_probable() -> None:
    unknown = np.zeros((5, len(FEATURES)), np.float32)
    for features in (unknown, unknown[:0]):
        np.testing.assert_array_equal(learned_prior(features), 1.0 / len(COEFFICIENTS))


def test_of_many_flights_evenly_spaced_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit_prior, "MOST_FLIGHTS", 51)
    random = np.random.default_rng(2)
    flights = settled(np.exp(random.uniform(np.log(50.0), np.log(15_000.0), 101)), 5_500.0)
    every_other = learned_prior(flights[::2])
    np.testing.assert_array_equal(learned_prior(flights), every_other)
    unknown = np.zeros((30, len(FEATURES)), np.float32)  # does not count
    np.testing.assert_array_equal(learned_prior(np.concatenate([unknown, flights, unknown])), every_other)
    monkeypatch.setattr(orbit_prior, "MOST_FLIGHTS", 101)
    assert (learned_prior(flights) != every_other).any()
