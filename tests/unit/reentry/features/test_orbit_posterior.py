"""The posterior over ballistic coefficients, by hand-made numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reentry.features.orbit_posterior import (
    COEFFICIENTS,
    DRAG_FACTORS,
    ONSET_PRESSURES,
    SPEEDS,
    has_begun,
    posterior,
    speed_shares,
)

FLAT = np.full((len(SPEEDS), len(COEFFICIENTS)), 1.0 / len(COEFFICIENTS))


def test_a_speed_between_two_knots_is_shared_between_them() -> None:
    shares = speed_shares(np.array([2_750.0]))[0]
    np.testing.assert_allclose(shares[:3], [0.0, 0.75, 0.25])
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("speed", "knot"), [(0.0, 0), (1_500.0, 0), (7_500.0, -1), (20_000.0, -1)])
def test_a_speed_beyond_the_knots_counts_as_the_nearest_one(speed: float, knot: int) -> None:
    shares = speed_shares(np.array([speed]))[0]
    assert shares[knot] == 1.0
    assert shares.sum() == 1.0


def test_a_measured_drag_factor_selects_its_coefficient() -> None:
    weight = posterior(np.array([0.25]), np.array([0.001]), np.array([5_000.0]), FLAT)[0]
    assert COEFFICIENTS[weight.argmax()] == pytest.approx(4_000.0, rel=0.04)
    assert weight.sum() == pytest.approx(1.0)


def test_without_information_the_prior_remains() -> None:
    prior = FLAT.copy()
    prior[3] = np.arange(1, len(COEFFICIENTS) + 1)
    prior[3] /= prior[3].sum()
    weight = posterior(np.array([0.0]), np.array([1e6]), np.array([SPEEDS[3]]), prior)[0]
    np.testing.assert_allclose(weight, prior[3], rtol=1e-5)


def test_a_coefficient_without_prior_probability_needs_a_measurement_of_its_drag() -> None:
    prior = np.where(COEFFICIENTS > 1_000.0, FLAT, 0.0)
    weight = posterior(np.array([5.0]), np.array([2.0]), np.array([5_000.0]), prior)[0]
    assert weight[COEFFICIENTS > 1_000.0].sum() > 0.999


@pytest.mark.parametrize(("coefficient", "pressure", "expected"), [(100.0, 50.0, 0.0), (100.0, 200.0, 1.0)])
def test_reentry_begins_at_a_tenth_of_g(coefficient: float, pressure: float, expected: float) -> None:
    # A body of 100 kg/m2 is slowed by 0.98 m/s2 at 98 Pa.
    weight = np.zeros(len(COEFFICIENTS))
    weight[np.abs(COEFFICIENTS - coefficient).argmin()] = 1.0
    assert has_begun(weight, np.array(math.log10(pressure))) == expected


def test_the_probability_of_the_onset_rises_with_the_pressure() -> None:
    weight = np.tile(FLAT[0], (50, 1))
    passed = has_begun(weight, np.linspace(-3.0, 6.0, 50))
    assert passed[0] == 0.0
    assert passed[-1] == pytest.approx(1.0)
    assert (np.diff(passed) >= 0.0).all()


def test_the_grids_agree() -> None:
    np.testing.assert_allclose(DRAG_FACTORS * COEFFICIENTS, 1e3)
    np.testing.assert_allclose(np.exp(ONSET_PRESSURES) / COEFFICIENTS, 0.980665)
