"""The orbit filter on flights of good sensors, on damaged flights, and on tracks that are not in free flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from reentry.features.orbit_filter import STATE, _density, continue_all
from reentry.features.orbit_posterior import has_begun, posterior
from reentry.schema import MEASUREMENT_COLUMNS, ORBIT_FEATURES, REENTRY_PHASE
from reentry.simulation import (
    BallisticConfig,
    TrapezoidConfig,
    of_severity,
    simulate_ballistic,
    simulate_trapezoid,
)
from reentry.simulation.ballistic import true_flights
from tests.orbit import PRIOR

Array = npt.NDArray[np.float64]
Change = Callable[[Array, np.random.Generator], Array]

TIME, LATITUDE, LONGITUDE, ALTITUDE, INTENSITY, SENSOR = (
    MEASUREMENT_COLUMNS.index(name)
    for name in ("timestamp", "latitude", "longitude", "altitude", "radiometric_intensity", "sensor_id")
)
KNOWN, FACTOR, DEVIATION, PRESSURE, _, SPEED = range(len(ORBIT_FEATURES))
LIMITS = np.array([1.0, 1e7, 1e5, 12.0, 10.0, 8_500.0])
"""Largest absolute values of the features."""


@dataclass(frozen=True)
class Flight:
    rows: Array
    """Measurements, (T, M)."""
    onset: float
    """Time of the first labelled row, s."""


@cache
def flights(severity: int, count: int = 24, step: float = 1.0, seed: int = 12) -> list[Flight]:
    config = BallisticConfig(tracks=count, seed=seed, step=step, sensors=of_severity(severity))
    return [flight for flight in flights_of(simulate_ballistic(config)) if np.isfinite(flight.onset)]


def flights_of(table: pd.DataFrame) -> list[Flight]:
    found = []
    for _, track in table.groupby("track_id"):
        rows = track.sort_values("timestamp", kind="stable")
        measurements = rows[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64)
        labelled = measurements[rows[REENTRY_PHASE.name].to_numpy() == 1, TIME]
        found.append(Flight(measurements, labelled[0] if len(labelled) else np.inf))
    return found


def trapezoids(count: int = 30, **settings: float) -> list[Flight]:
    config = replace(TrapezoidConfig(tracks=count, seed=4), **settings)
    return flights_of(simulate_trapezoid(config))


def answers(rows: Array) -> Array:
    """Features of a track, (T, 6), which must be finite, within their limits, and 0 where nothing is known."""
    features = np.full((1, len(rows), len(ORBIT_FEATURES)), np.nan)
    continue_all(np.zeros(1, STATE), np.ascontiguousarray(rows)[None], features)
    found = features[0]
    assert np.isfinite(found).all()
    assert (np.abs(found) <= LIMITS).all(), np.abs(found).max(axis=0)
    assert set(found[:, KNOWN]) <= {0.0, 1.0}
    assert not found[found[:, KNOWN] == 0.0].any()
    return found


def probability(found: Array) -> Array:
    """Probability of an onset so far, (T,)."""
    begun = np.zeros(len(found))
    known = found[:, KNOWN] == 1.0
    answered = found[known]
    weight = posterior(answered[:, FACTOR], answered[:, DEVIATION], answered[:, SPEED], PRIOR)
    begun[known] = has_begun(weight, answered[:, PRESSURE])
    return begun


def delay(flight: Flight) -> float:
    """Time from the onset to the first step at which it has probably passed, s; infinite without such a step."""
    found = answers(flight.rows)
    alarm = flight.rows[probability(found) >= 0.5, TIME]
    return float(alarm[0] - flight.onset) if len(alarm) else np.inf


def changed(flight: Flight, change: Change, seed: int = 0) -> Flight:
    return replace(flight, rows=change(flight.rows.copy(), np.random.default_rng(seed)))


def from_apogee(rows: Array, _: np.random.Generator) -> Array:
    return rows[rows[:, ALTITUDE].argmax() :]


def without_signal(rows: Array, _: np.random.Generator) -> Array:
    rows[:, INTENSITY] = 1.0
    return rows


def with_flashes(rows: Array, random: np.random.Generator) -> Array:
    first = random.integers(0, 20)
    rows[first : first + 4, INTENSITY] *= 300.0
    return rows


def with_alternating_sensors(rows: Array, _: np.random.Generator) -> Array:
    rows[:, SENSOR] = np.arange(len(rows)) % 2
    rows[:, ALTITUDE] += 60.0 * rows[:, SENSOR]
    return rows


def with_each_row_twice(rows: Array, _: np.random.Generator) -> Array:
    return np.repeat(rows, 2, axis=0)


def with_two_places_at_each_time(rows: Array, random: np.random.Generator) -> Array:
    rows = np.repeat(rows, 2, axis=0)
    rows[1::2, ALTITUDE] += random.normal(0.0, 20.0, len(rows) // 2)
    return rows


def from_a_minute_before_the_onset(flight: Flight) -> Flight:
    return replace(flight, rows=flight.rows[flight.rows[:, TIME] > flight.onset - 60.0])


def test_the_error_of_the_drag_factor_is_as_large_as_its_stated_deviation() -> None:
    errors = []
    for flight in flights(1, 80):
        found, time = answers(flight.rows), flight.rows[:, TIME]
        later = found[np.searchsorted(time, flight.onset + 20.0, side="right") - 1]
        at = found[np.searchsorted(time, flight.onset)]
        assert at[KNOWN] == 1.0
        if later[KNOWN] and later[DEVIATION] < 0.05 * later[FACTOR]:
            errors.append((at[FACTOR] - later[FACTOR]) / at[DEVIATION])
    assert len(errors) >= 40
    assert 0.7 < np.std(errors) < 1.3
    assert abs(np.mean(errors)) < 0.5


@pytest.mark.parametrize("severity", [0, 1])
def test_every_flight_has_an_answer_long_before_its_onset(severity: int) -> None:
    for flight in flights(severity, 60):
        answered = answers(flight.rows)[:, KNOWN] == 1.0
        first = flight.rows[answered.argmax(), TIME]
        assert answered.any()
        assert first < flight.onset - 20.0


def test_without_noise_the_drag_is_within_ten_per_cent_after_the_onset() -> None:
    """The air of the simulation differs from the filter's, so only the product of density and coefficient is right."""
    (chunk,) = true_flights(BallisticConfig(tracks=40, seed=12, sensors=of_severity(0)))
    for shot, flight in enumerate(flights(0, 40)):
        step = np.searchsorted(flight.rows[:, TIME], flight.onset) + 1
        after = answers(flight.rows)[step]
        drag = chunk.flights.drag[chunk.flights.shot == shot][step]
        assert after[KNOWN] == 1.0
        assert after[FACTOR] * 1e-3 * 10.0 ** after[PRESSURE] == pytest.approx(drag, rel=0.1)


@pytest.mark.parametrize(("severity", "limit"), [(0, 1.0), (1, 3.5), (2, 5.0), (3, 7.0)])
def test_the_onset_is_found_to_a_few_seconds(severity: int, limit: float) -> None:
    delays = [delay(flight) for flight in flights(severity)]
    assert np.sqrt(np.mean(np.square(delays))) < limit


@pytest.mark.parametrize(
    "change",
    [
        from_apogee,
        without_signal,
        with_flashes,
        with_alternating_sensors,
        with_each_row_twice,
        with_two_places_at_each_time,
    ],
)
def test_the_onset_is_found_about_as_well_in_damaged_tracks(change: Change) -> None:
    damaged = [delay(changed(flight, change, seed)) for seed, flight in enumerate(flights(1))]
    assert np.sqrt(np.mean(np.square(damaged))) < 4.5


def test_a_minute_before_the_onset_is_enough_to_find_it() -> None:
    delays = [delay(from_a_minute_before_the_onset(flight)) for flight in flights(1)]
    assert np.sqrt(np.mean(np.square(delays))) < 9.0


@pytest.mark.parametrize("step", [0.05, 0.2, 4.0])
def test_the_onset_is_found_at_other_rates(step: float) -> None:
    delays = [delay(flight) for flight in flights(1, 3, step)]
    assert np.sqrt(np.mean(np.square(delays))) < 6.0 + step


def test_slow_measurements_give_bounded_answers() -> None:
    assert np.mean([answers(flight.rows)[:, KNOWN].any() for flight in flights(1, step=10.0)]) > 0.8


@pytest.mark.parametrize("severity", [1, 3])
@pytest.mark.parametrize("gap", [1.0, 5.0, 20.0, 60.0, 130.0, 300.0, 600.0])
def test_gaps_give_bounded_answers(severity: int, gap: float) -> None:
    random = np.random.default_rng(int(gap))
    for flight in flights(severity):
        time = flight.rows[:, TIME]
        for start in (flight.onset - gap * random.random(), random.uniform(time[0], time[-1])):
            answers(flight.rows[(time < start) | (time >= start + gap)])


def test_a_gap_before_the_air_does_not_matter() -> None:
    for flight in flights(1):
        time = flight.rows[:, TIME]
        start = flight.onset - 100.0
        with_gap = replace(flight, rows=flight.rows[(time < start) | (time >= start + 60.0)])
        assert abs(delay(with_gap) - delay(flight)) < 3.0


@pytest.mark.parametrize("length", range(1, 11))
def test_short_tracks_have_no_answer(length: int) -> None:
    for flight in flights(1, 8):
        assert not answers(flight.rows[:length]).any()
        assert not answers(flight.rows[-length:]).any()


def test_flights_over_a_pole_and_the_date_line_have_the_answers_of_flights_elsewhere() -> None:
    """A turn about the axis of the Earth changes nothing, and a flight over a pole has a bounded answer."""
    for flight in flights(1, 8):
        turned = flight.rows.copy()
        turned[:, LONGITUDE] = (turned[:, LONGITUDE] - turned[len(turned) // 2, LONGITUDE] + 360.0) % 360.0 - 180.0
        expected, got = answers(flight.rows), answers(turned)
        np.testing.assert_array_equal(got[:, KNOWN], expected[:, KNOWN])
        np.testing.assert_allclose(got[:, PRESSURE], expected[:, PRESSURE], atol=1e-3)
        assert delay(replace(flight, rows=turned)) == delay(flight)
    over_the_pole = flights(0, 1)[0].rows.copy()
    north = 80.0 + np.linspace(0.0, 20.0, len(over_the_pole))
    over_the_pole[:, LATITUDE] = np.where(north > 90.0, 180.0 - north, north)
    over_the_pole[:, LONGITUDE] = np.where(north > 90.0, -120.0, 60.0)
    answers(over_the_pole)


@pytest.mark.parametrize(
    "settings", [{}, {"noise": 0.0}, {"noise": 1e-4}, {"noise": 0.1}, {"step": 0.1}, {"step": 2.0}]
)
def test_trapezoids_are_not_in_free_flight(settings: dict[str, float]) -> None:
    for flight in trapezoids(**settings):
        assert not answers(flight.rows).any()


def test_trapezoids_without_a_signal_or_with_a_flash_are_not_in_free_flight() -> None:
    for seed, flight in enumerate(trapezoids()):
        assert not answers(changed(flight, without_signal).rows).any()
        assert not answers(changed(flight, with_flashes, seed).rows).any()


def test_times_that_are_cut_to_whole_seconds_do_not_make_a_trapezoid_fly() -> None:
    for flight in trapezoids():
        flight.rows[:, TIME] = np.floor(flight.rows[:, TIME])
        assert not answers(flight.rows).any()


@pytest.mark.parametrize("noise", [0.0, 10.0, 1_000.0])
@pytest.mark.parametrize(
    ("altitude", "climb", "degrees"), [(0.0, 0.0, 0.0), (80e3, 0.0, 0.0), (10e3, 0.0, 0.002), (120e3, -300.0, 0.01)]
)
def test_bodies_at_rest_or_of_constant_velocity_are_not_in_free_flight(
    noise: float, altitude: float, climb: float, degrees: float
) -> None:
    """The dark end of a plume makes the filter start."""
    time = np.arange(400.0)
    for seed in range(8):
        error = np.random.default_rng(seed).normal(0.0, noise, (3, len(time)))
        rows = np.empty((len(time), len(MEASUREMENT_COLUMNS)))
        rows[:, TIME] = 1.7e9 + time
        rows[:, LATITUDE] = 40.0 + degrees * time + error[0] / 111e3
        rows[:, LONGITUDE] = 10.0 + error[1] / 85e3
        rows[:, ALTITUDE] = np.maximum(altitude + climb * time, 0.0) + error[2]
        rows[:, INTENSITY] = np.where(time < 20.0, 100.0, 1.0)
        rows[:, SENSOR] = 1.0
        assert not answers(rows).any()


def test_an_altitude_in_kilometres_is_not_free_flight() -> None:
    for flight in flights(1):
        rows = flight.rows.copy()
        rows[:, ALTITUDE] /= 1_000.0
        assert not answers(rows).any()


def test_swapped_latitudes_and_longitudes_give_bounded_answers() -> None:
    for flight in flights(1):
        rows = flight.rows.copy()
        rows[:, [LATITUDE, LONGITUDE]] = rows[:, [LONGITUDE, LATITUDE]]
        answers(rows)


def test_the_density_is_defined_for_every_height() -> None:
    assert _density(0.0) == pytest.approx(1.225, rel=1e-3)
    for below in (-1e9, -0.0, np.nan, -np.inf):
        assert _density(below) == _density(0.0)
    assert 0.0 < _density(np.inf) == _density(1e12) < 1e-9
