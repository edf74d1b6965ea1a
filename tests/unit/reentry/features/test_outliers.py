"""Tests of the replacement of outlier bursts, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from reentry.features.history import WholeTracks
from reentry.features.outliers import HISTORY, without_outliers


def cleaned(values: np.ndarray, *, step: float = 1.0, limit: float = 10.0) -> np.ndarray:
    """Filtered values of a whole track, whose first value is repeated before its start."""
    time = step * np.arange(len(values), dtype=float)
    padded = [np.concatenate([np.repeat(x[:1], HISTORY), x])[None] for x in (time, values)]
    return without_outliers(*padded, limit, WholeTracks())[0]


@pytest.mark.parametrize("burst", [(500.0,), (-500.0, 400.0), (900.0, 900.0, 900.0), (50.0, -800.0, 300.0)])
def test_a_burst_on_a_straight_line_is_replaced_by_the_line_exactly(burst: tuple[float, ...]) -> None:
    line = 100.0 + 7.0 * np.arange(60.0)
    values = line.copy()
    values[30 : 30 + len(burst)] += burst
    np.testing.assert_allclose(cleaned(values), line, atol=1e-9)


def test_a_value_within_the_limit_of_its_prediction_is_not_changed() -> None:
    values = 7.0 * np.arange(60.0) + np.random.default_rng(1).uniform(-3.0, 3.0, 60)
    np.testing.assert_array_equal(cleaned(values), values)


def test_noise_increases_the_accepted_difference() -> None:
    values = np.random.default_rng(1).normal(0.0, 200.0, 5000)
    assert (cleaned(values) != values).mean() < 0.05
    quiet = np.zeros(5000)
    quiet[::50] = 600.0
    assert (cleaned(quiet)[100::50] == 0.0).all()


def test_a_change_of_slope_is_accepted_within_seven_steps() -> None:
    values = np.concatenate([np.zeros(40), 100.0 * np.arange(1, 41)])
    assert np.flatnonzero(cleaned(values) != values).tolist() == [40, 41, 42, 43]


def test_the_first_measurements_are_kept_because_they_have_no_prediction() -> None:
    values = np.zeros(40)
    values[0], values[5] = 1e6, -1e6
    np.testing.assert_array_equal(cleaned(values)[: HISTORY + 1], values[: HISTORY + 1])


def test_measurements_of_equal_time_are_never_outliers() -> None:
    time, values = np.zeros((1, 40)), np.random.default_rng(0).normal(0.0, 1e6, (1, 40))
    np.testing.assert_array_equal(without_outliers(time, values, 10.0, WholeTracks()), values[:, HISTORY:])
