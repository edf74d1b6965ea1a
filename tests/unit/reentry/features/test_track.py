"""Tests of the feature values and of their causality."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reentry.features.groups import ALL_GROUPS
from reentry.features.track import LONGEST_STEP, METRES_PER_DEGREE, WINDOW, FeatureStream, track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, ROBUST_FEATURES, SIMPLE_FEATURES
from reentry.tracks import read_tracks


def made(steps: int, **columns: np.ndarray | float) -> np.ndarray:
    """Measurements, (T, M), with a time step of 1 s and zeros in all columns that are not given."""
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

anything = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 60), st.just(len(MEASUREMENT_COLUMNS))),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)


@st.composite
def flown(draw: st.DrawFn) -> np.ndarray:
    """Flight with uneven time steps, gaps, repeated times, outliers and handovers, (T, M)."""
    steps = draw(st.integers(2, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    time = np.cumsum(rng.choice([0.0, 0.5, 1.0, 1.0, 1.25, 30.0], steps))
    noise, off = rng.normal(size=(3, steps)) * 0.003, rng.random(steps) < 0.05
    return made(
        steps,
        timestamp=time,
        latitude=10.0 + 0.03 * time + noise[0],
        longitude=(179.0 + 0.04 * time + noise[1] + 180.0) % 360.0 - 180.0,
        altitude=8e4 + 2e3 * time - 5.0 * time**2 + 300.0 * noise[2] + off * 2e4,
        radiometric_intensity=np.exp(rng.normal(size=steps)),
        sensor_id=np.cumsum(rng.random(steps) < 0.1),
    )


@given(measurements | flown())
@settings(deadline=None)
def test_a_stream_has_exactly_the_features_of_the_whole_track(table: np.ndarray) -> None:
    stream = FeatureStream(groups=ALL_GROUPS)
    stepped = np.array([stream.step(row) for row in table])
    np.testing.assert_array_equal(stepped, track_features(table, groups=ALL_GROUPS))


@given(measurements | flown(), st.integers(1, 120))
@settings(deadline=None)
def test_a_prefix_has_exactly_the_features_of_the_whole_track(table: np.ndarray, cut: int) -> None:
    whole = track_features(table, groups=ALL_GROUPS)
    np.testing.assert_array_equal(track_features(table[:cut], groups=ALL_GROUPS), whole[:cut])


@given(measurements)
@settings(deadline=None)
def test_features_are_finite_if_all_times_are_equal(table: np.ndarray) -> None:
    table[:, 0] = 5.0
    features = track_features(table)
    assert np.isfinite(features).all()
    assert (column(features, "climb_rate") == 0).all()


@given(anything)
@settings(deadline=None)
def test_robust_and_orbit_features_are_finite_for_any_finite_measurements(table: np.ndarray) -> None:
    with np.errstate(all="ignore"):  # simple features may overflow float32
        assert np.isfinite(track_features(table, groups=ALL_GROUPS)[:, len(SIMPLE_FEATURES) :]).all()


def noisy_flight(seed: int = 5) -> np.ndarray:
    """Flight over its apogee, measured by two sensors with 50 m of noise at uneven time steps, (T, M)."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.5, 2.0, 80))
    noise = rng.normal(size=(3, 80))
    return made(
        80,
        timestamp=time,
        latitude=10.0 + 0.03 * time + 5e-4 * noise[0],
        longitude=20.0 + 0.04 * time + 5e-4 * noise[1],
        altitude=8e4 + 400.0 * time - 5.0 * time**2 + 50.0 * noise[2],
        radiometric_intensity=np.exp(rng.normal(size=80)),
        sensor_id=np.repeat([3, 8], 40),
    )


def test_all_features_that_need_no_compiler_are_computed_by_default() -> None:
    table = noisy_flight()
    features = track_features(table)
    np.testing.assert_array_equal(features, track_features(table, groups=frozenset({"robust"})))
    assert features.any(axis=0).sum() == len(SIMPLE_FEATURES) + len(ROBUST_FEATURES)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)  # each example reads a file
def test_repeated_and_late_rows_do_not_change_the_features(flight: int, order: int) -> None:
    table = noisy_flight(flight)
    rng = np.random.default_rng(order)
    rows = rng.permutation(np.concatenate([np.arange(80), rng.integers(0, 80, 20)]))
    frame = pd.DataFrame(table[rows], columns=list(MEASUREMENT_COLUMNS))
    with tempfile.TemporaryDirectory() as folder:  # all examples share the one of pytest
        path = Path(folder) / "tracks.csv"
        frame.assign(track_id=1, sensor_id=frame["sensor_id"].astype(int)).to_csv(path, index=False)
        with read_tracks(path) as file:
            (track,) = file
    np.testing.assert_array_equal(track_features(track.measurements), track_features(table))


@given(st.floats(-1e4, 1e6), st.floats(0.0, 1e6))
@settings(deadline=None)
def test_an_outlier_in_the_first_row_is_not_the_peak(altitude: float, intensity: float) -> None:
    table = noisy_flight()
    clean = track_features(table)
    table[0, MEASUREMENT_COLUMNS.index("altitude")] = altitude
    table[0, MEASUREMENT_COLUMNS.index("radiometric_intensity")] = intensity
    wrong = track_features(table)
    for name in ("altitude_fraction", "drop_from_peak"):  # the flight is still climbing
        np.testing.assert_array_equal(column(wrong, name)[12:], column(clean, name)[12:])
    for name in ("altitude_fraction", "intensity_fraction"):
        assert (column(wrong, name)[:2] == 1.0).all()


def test_each_track_of_a_batch_has_the_features_of_the_single_track() -> None:
    rng = np.random.default_rng(3)
    batch = rng.normal(size=(4, 30, len(MEASUREMENT_COLUMNS)))
    batch[..., 0] = np.arange(30)
    whole = track_features(batch)
    assert whole.shape == (4, 30, len(FEATURES))
    assert whole.dtype == np.float32
    for track, features in zip(batch, whole, strict=True):
        np.testing.assert_array_equal(track_features(track), features)


def test_the_climb_rate_of_a_straight_climb_is_exact_after_one_window() -> None:
    rate = column(track_features(made(20, altitude=500.0 * np.arange(20))), "climb_rate")
    np.testing.assert_allclose(rate[WINDOW - 1 :], 500.0, rtol=1e-6)


def test_the_climb_rate_is_a_least_squares_slope_over_the_window() -> None:
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


def test_crossing_the_date_line_does_not_change_the_ground_speed() -> None:
    across = (179.95 + 0.01 * np.arange(10) + 180.0) % 360.0 - 180.0
    speed = column(track_features(made(10, longitude=across)), "ground_speed")
    assert speed[-1] == pytest.approx(0.01 * METRES_PER_DEGREE, rel=1e-6)


def test_altitude_fraction_is_relative_to_the_highest_altitude_so_far() -> None:
    altitude = np.concatenate([np.linspace(0, 100_000, 50), np.linspace(100_000, 0, 50)])
    fraction = column(track_features(made(100, altitude=altitude)), "altitude_fraction")
    assert fraction[49] == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(fraction[55:], altitude[55:] / 100_000, atol=1e-6)


def test_one_outlier_does_not_become_the_peak() -> None:
    altitude = np.full(30, 50_000.0)
    altitude[10] = 5e6
    fraction = column(track_features(made(30, altitude=altitude)), "altitude_fraction")
    np.testing.assert_allclose(fraction[11:], 1.0)


def trapezoid(steps: int = 900, step: float = 0.5, apogee: float = 110_000.0, noise: float = 0.01) -> np.ndarray:
    """Flight with the altitude profile of the public data, (T, M)."""
    climb, level = int(0.3 * steps), int(0.4 * steps)
    altitude = np.concatenate(
        [np.linspace(0, apogee, climb), np.full(level, apogee), np.linspace(apogee, 0, steps - climb - level)]
    )
    altitude += np.random.default_rng(2).normal(0.0, noise, steps)
    return made(steps, timestamp=step * np.arange(steps), altitude=altitude)


@pytest.mark.parametrize(("steps", "step"), [(900, 0.5), (1133, 0.5), (4500, 0.1), (225, 2.0), (9000, 0.5)])
def test_the_elapsed_fraction_is_the_share_of_rows_so_far(steps: int, step: float) -> None:
    share = column(track_features(trapezoid(steps, step)), "elapsed_fraction")
    rows = (1 + np.arange(steps)) / steps
    onset = int(0.85 * steps)
    np.testing.assert_allclose(share[onset - 20 :], rows[onset - 20 :], atol=5e-6 * 900 / steps)


def test_the_elapsed_fraction_is_zero_until_a_descent_rate_is_known() -> None:
    share = column(track_features(trapezoid()), "elapsed_fraction")
    descent_from = 270 + 360
    assert not share[: descent_from + 5].any()
    assert (share[descent_from + 10 :] > 0.5).all()
    level = track_features(made(50, altitude=5e4))
    assert not column(level, "elapsed_fraction").any()


def test_the_elapsed_fraction_is_robust_to_gaps() -> None:
    table = trapezoid()
    whole = column(track_features(table), "elapsed_fraction")
    kept = np.ones(900, dtype=bool)
    kept[300:340] = kept[650:660] = kept[760] = False
    part = column(track_features(table[kept]), "elapsed_fraction")
    np.testing.assert_allclose(part[-140:], whole[kept][-140:], atol=2e-6)


FAR_OFF = st.floats(-9e4, -2e4) | st.floats(2e4, 1e6)
"""Altitude errors of outliers, m. Smaller errors may count as noise or as a turn of the flight and remain."""


@given(st.integers(20, 890), st.lists(FAR_OFF, min_size=1, max_size=3))
@example(257, [9e5, 9e5, 9e5])  # just before the climb ends at row 270
@example(273, [9e5, 9e5, 9e5])
@settings(deadline=None, max_examples=50)
def test_up_to_three_outliers_in_a_row_do_not_change_later_altitude_fractions(first: int, off: list[float]) -> None:
    table = trapezoid()
    clean = column(track_features(table, groups=frozenset()), "altitude_fraction")
    table[first : first + len(off), MEASUREMENT_COLUMNS.index("altitude")] += off
    moved = column(track_features(table, groups=frozenset()), "altitude_fraction")
    np.testing.assert_array_equal(moved[:first], clean[:first])
    # Noise is 1e-7 of the altitude. After a burst near a turn of the flight, the prediction is less accurate.
    np.testing.assert_allclose(moved[first + 25 :], clean[first + 25 :], rtol=0, atol=2e-6)


@given(
    st.one_of(st.integers(20, 600), st.integers(645, 800)),
    st.lists(FAR_OFF, min_size=1, max_size=3),
)
@settings(deadline=None, max_examples=50)
def test_up_to_three_outliers_in_a_row_do_not_change_the_elapsed_fraction(first: int, off: list[float]) -> None:
    table = trapezoid()  # a burst near row 630, where the descent begins, does change the fraction
    clean = column(track_features(table, groups=frozenset()), "elapsed_fraction")
    rows = slice(first, first + len(off))
    table[rows, MEASUREMENT_COLUMNS.index("altitude")] += off
    moved = column(track_features(table, groups=frozenset()), "elapsed_fraction")
    np.testing.assert_allclose(moved, clean, rtol=0, atol=2e-5)
    np.testing.assert_allclose(np.delete(moved, rows), np.delete(clean, rows), rtol=0, atol=2e-6)


def test_the_climb_rate_has_less_noise_than_a_difference_of_neighbours() -> None:
    altitude = np.random.default_rng(0).normal(0.0, 1.0, 20_000)
    rate = column(track_features(made(20_000, altitude=altitude)), "climb_rate")
    assert rate.std() == pytest.approx(1 / np.sqrt(10), rel=0.05)
    assert np.diff(altitude).std() / rate.std() > 4.0


def test_the_time_step_of_a_long_gap_is_limited() -> None:
    table = made(3, timestamp=np.array([0.0, 0.5, 4000.0]))
    np.testing.assert_allclose(column(track_features(table), "time_step"), [0.0, 0.5, LONGEST_STEP])


@given(flown(), st.sampled_from([2.0**31, -(2.0**20), 86_400.0]))
@settings(deadline=None)
def test_features_do_not_depend_on_the_start_time(table: np.ndarray, shift: float) -> None:
    # Current Unix times in float64 have a resolution of 2.4e-7 s. These time steps are multiples of it.
    late = table.copy()
    late[:, 0] += shift
    np.testing.assert_array_equal(track_features(late), track_features(table))


def test_features_change_only_by_rounding_if_unix_time_cannot_represent_the_time_steps() -> None:
    time = np.cumsum(np.random.default_rng(0).uniform(0.9, 1.1, 100))
    table = made(100, timestamp=time, latitude=0.05 * time, altitude=1e5 - 30.0 * time)
    late = table.copy()
    late[:, 0] += 1.7e9
    np.testing.assert_allclose(track_features(late), track_features(table), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("shape", [(3,), (4, 5), (2, 0, len(MEASUREMENT_COLUMNS)), (1, 2, 3, len(MEASUREMENT_COLUMNS))])
def test_another_shape_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        track_features(np.zeros(shape))
