"""Features: what they are, and that they read no future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reentry.features import LONGEST_STEP, METRES_PER_DEGREE, WINDOW, FeatureStream, track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS


def made(steps: int, **columns: np.ndarray | float) -> np.ndarray:
    """(T, M) measurements, 1 s apart, zero but for the given columns."""
    table = np.zeros((steps, len(MEASUREMENT_COLUMNS)))
    table[:, 0] = np.arange(steps)
    for name, values in columns.items():
        table[:, MEASUREMENT_COLUMNS.index(name)] = values
    return table


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[..., FEATURES.index(name)]


measurements = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 40), st.just(len(MEASUREMENT_COLUMNS))),
    elements=st.floats(-80, 80, allow_nan=False, width=32),
).map(lambda table: np.concatenate([np.cumsum(np.abs(table[:, :1]), axis=0), table[:, 1:]], axis=1))


@given(measurements)
@settings(deadline=None)
def test_one_step_at_a_time_gives_the_very_same_numbers_as_the_whole_track(table: np.ndarray) -> None:
    stream = FeatureStream()
    stepped = np.array([stream.step(row) for row in table])
    np.testing.assert_array_equal(stepped, track_features(table))


@given(measurements, st.integers(1, 40))
@settings(deadline=None)
def test_a_prefix_has_the_features_of_the_whole(table: np.ndarray, cut: int) -> None:
    np.testing.assert_array_equal(track_features(table[:cut]), track_features(table)[:cut])


@given(measurements)
@settings(deadline=None)
def test_features_are_finite_even_when_time_stands_still(table: np.ndarray) -> None:
    table[:, 0] = 5.0
    features = track_features(table)
    assert np.isfinite(features).all()
    assert (column(features, "climb_rate") == 0).all()


def test_a_batch_is_its_tracks() -> None:
    rng = np.random.default_rng(3)
    batch = rng.normal(size=(4, 30, len(MEASUREMENT_COLUMNS)))
    batch[..., 0] = np.arange(30)
    whole = track_features(batch)
    assert whole.shape == (4, 30, len(FEATURES))
    assert whole.dtype == np.float32
    for track, features in zip(batch, whole, strict=True):
        np.testing.assert_array_equal(track_features(track), features)


def test_a_straight_climb_has_its_rate_once_the_window_holds_it_alone() -> None:
    rate = column(track_features(made(20, altitude=500.0 * np.arange(20))), "climb_rate")
    np.testing.assert_allclose(rate[WINDOW - 1 :], 500.0, rtol=1e-6)


def test_the_climb_rate_is_least_squares_over_the_window() -> None:
    rng = np.random.default_rng(1)
    time = np.sort(rng.uniform(0, 50, 30))
    table = made(30, timestamp=time, altitude=rng.normal(0, 1000, 30))
    rate = column(track_features(table), "climb_rate")
    for step in range(WINDOW - 1, 30):
        inside = slice(step - WINDOW + 1, step + 1)
        expected = np.polyfit(time[inside], table[inside, MEASUREMENT_COLUMNS.index("altitude")], 1)[0]
        assert rate[step] == pytest.approx(expected, rel=1e-4)


def test_ground_speed_is_in_metres_per_second_along_a_meridian_and_along_a_parallel() -> None:
    north = column(track_features(made(10, latitude=0.01 * np.arange(10))), "ground_speed")
    assert north[-1] == pytest.approx(0.01 * METRES_PER_DEGREE, rel=1e-6)
    east = column(track_features(made(10, latitude=60.0, longitude=0.01 * np.arange(10))), "ground_speed")
    assert east[-1] == pytest.approx(0.01 * METRES_PER_DEGREE * 0.5, rel=1e-6)


def test_crossing_the_date_line_is_no_jump() -> None:
    across = (179.95 + 0.01 * np.arange(10) + 180.0) % 360.0 - 180.0
    speed = column(track_features(made(10, longitude=across)), "ground_speed")
    assert speed[-1] == pytest.approx(0.01 * METRES_PER_DEGREE, rel=1e-6)


def test_altitude_fraction_is_of_the_highest_so_far() -> None:
    altitude = np.concatenate([np.linspace(0, 100_000, 50), np.linspace(100_000, 0, 50)])
    fraction = column(track_features(made(100, altitude=altitude)), "altitude_fraction")
    assert fraction[49] == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(fraction[55:], altitude[55:] / 100_000, atol=1e-6)


def test_one_outlier_does_not_become_the_peak() -> None:
    altitude = np.full(30, 50_000.0)
    altitude[10] = 5e6
    fraction = column(track_features(made(30, altitude=altitude)), "altitude_fraction")
    np.testing.assert_allclose(fraction[11:], 1.0)


def test_noise_on_the_climb_rate_is_a_fraction_of_a_difference_of_neighbours() -> None:
    altitude = np.random.default_rng(0).normal(0.0, 1.0, 20_000)
    rate = column(track_features(made(20_000, altitude=altitude)), "climb_rate")
    assert rate.std() == pytest.approx(1 / np.sqrt(10), rel=0.05)
    assert np.diff(altitude).std() / rate.std() > 4.0


def test_a_long_silence_counts_as_the_longest_step() -> None:
    table = made(3, timestamp=np.array([0.0, 0.5, 4000.0]))
    np.testing.assert_allclose(column(track_features(table), "time_step"), [0.0, 0.5, LONGEST_STEP])


def test_features_do_not_depend_on_when_the_track_flew() -> None:
    # At today's Unix time a float64 second has a resolution of 2.4e-7: the steps are multiples of it.
    table = made(50, altitude=np.random.default_rng(2).normal(0, 1e4, 50))
    late = table.copy()
    late[:, 0] += 2.0**31
    np.testing.assert_array_equal(track_features(late), track_features(table))


@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 0, len(MEASUREMENT_COLUMNS)), (1, 2, 3, len(MEASUREMENT_COLUMNS))])
def test_another_shape_is_refused_with_what_was_expected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        track_features(np.zeros(shape))
