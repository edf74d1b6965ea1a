"""The refined onset is the weighted median of the onset times, the same for whole tracks and for live ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from reentry.features.orbit_posterior import COEFFICIENTS, ONSET_PRESSURES, SPEEDS, has_begun, posterior
from reentry.refinement import LONGEST_HINDSIGHT, LiveRefinement, OrbitPriors, refined_onset
from reentry.schema import FEATURES, NO_ONSET_TIMESTAMP
from tests.orbit import PRIOR, labelled_flights, write_reference

KNOWN, PEAK = FEATURES.index("orbit_known"), FEATURES.index("orbit_peak_pressure")
RISE = FEATURES.index("orbit_pressure_rise")
LIGHT, HEAVY = 40, 80
"""Indices of two coefficients."""


def made(pressure: list[float], *, rise: float = 0.5, known: list[int] | None = None) -> np.ndarray:
    """Features (T, F) of a body of which the filter says nothing, at given logarithms of the peak pressure."""
    features = np.zeros((len(pressure), len(FEATURES)), np.float32)
    features[:, FEATURES.index("orbit_drag_deviation")] = 1e6
    features[:, FEATURES.index("orbit_entry_speed")] = 4_000.0
    features[:, KNOWN] = 1.0 if known is None else known
    features[:, PEAK] = np.array(pressure) / math.log(10.0)
    features[:, RISE] = rise
    return features


def prior_of(**weights: float) -> np.ndarray:
    """A prior of the two coefficients, (R, G)."""
    prior = np.zeros((len(SPEEDS), len(COEFFICIENTS)))
    prior[:, LIGHT], prior[:, HEAVY] = weights["light"], weights["heavy"]
    return prior


BETWEEN = float(ONSET_PRESSURES[60])
"""Logarithm of a pressure at which the reentry of the light body has begun, and that of the heavy one has not."""
TIMES = 1.7e9 + np.arange(6.0)


def test_the_onset_of_a_likely_body_is_the_first_step_above_its_onset_pressure() -> None:
    found = refined_onset(made([0, 0, BETWEEN, BETWEEN, 20, 20]), TIMES, 3, prior_of(light=0.75, heavy=0.25))
    # The light body began at step 2, and the heavy one at step 4: deviation 2 s * sqrt(0.75 * 0.25), and half of the
    # step before each.
    assert found is not None
    assert (found.timestamp, found.hindsight) == (TIMES[2], 2.0)
    assert found.deviation == pytest.approx(math.hypot(2.0 * math.sqrt(0.1875), 0.5), rel=1e-6)


def test_the_median_follows_the_heavier_weight() -> None:
    found = refined_onset(made([0, 0, BETWEEN, BETWEEN, 20, 20]), TIMES, 3, prior_of(light=0.25, heavy=0.75))
    assert found is not None
    assert found.timestamp == TIMES[4]


def test_an_onset_that_has_not_come_is_predicted_from_the_rise_of_the_pressure() -> None:
    found = refined_onset(made([0, 0, BETWEEN, BETWEEN]), TIMES[:4], 2, prior_of(light=0.0, heavy=1.0))
    assert found is not None
    assert found.timestamp == pytest.approx(TIMES[3] + (ONSET_PRESSURES[HEAVY] - BETWEEN) / 0.5, abs=1e-4)
    assert found.deviation == pytest.approx(0.5)


def test_a_predicted_onset_is_at_most_eight_powers_of_e_away() -> None:
    found = refined_onset(made([0, -9.0], rise=0.0), TIMES[:2], 0, prior_of(light=0.0, heavy=1.0))
    assert found is not None
    assert found.timestamp == pytest.approx(TIMES[1] + 8.0 / 1e-3)


def test_a_pressure_counts_only_where_the_filter_has_a_result() -> None:
    features = made([20, 0, 0, BETWEEN, BETWEEN, 0], known=[0, 1, 1, 1, 1, 1])
    found = refined_onset(features, TIMES, 4, prior_of(light=1.0, heavy=0.0))
    assert found is not None
    assert found.timestamp == TIMES[3]


AROUND = 1.7e9 + np.array([0.0, 1.0, 2.0, 62.0, 63.0])
"""Times with a gap of a minute."""


def refined_live(features: np.ndarray, times: np.ndarray, alarm: int, prior: np.ndarray) -> tuple[float, float]:
    """Refined onset and deviation of the last step of a single live track."""
    history = LiveRefinement(prior)
    history.widen(1)
    for step in range(len(times)):
        since = np.array([times[alarm] if step >= alarm else NO_ONSET_TIMESTAMP])
        refined, deviation = history.advance(np.array([0]), features[step : step + 1], times[step : step + 1], since)
    return float(refined[0]), float(deviation[0])


def test_an_onset_in_a_gap_of_the_measurements_has_a_deviation_of_half_the_gap() -> None:
    features, prior = made([0, 0, 0, BETWEEN, BETWEEN]), prior_of(light=1.0, heavy=0.0)
    found = refined_onset(features, AROUND, 3, prior)
    assert found is not None
    assert found.timestamp == AROUND[3]
    assert found.deviation == pytest.approx(30.0)
    assert refined_live(features, AROUND, 3, prior) == found[:2]


def test_an_onset_while_the_filter_has_no_result_has_a_deviation_of_half_that_time() -> None:
    times = 1.7e9 + np.arange(40.0)
    pressure = [0.0] * 15 + [BETWEEN] * 25  # the onset is at step 15
    features = made(pressure, known=[not 10 <= step < 30 for step in range(40)])
    prior = prior_of(light=1.0, heavy=0.0)
    found = refined_onset(features, times, 30, prior)
    assert found is not None
    assert found.timestamp == times[30]
    assert found.deviation == pytest.approx(0.5 * (30 - 9))
    assert refined_live(features, times, 30, prior) == found[:2]


def test_a_gap_adds_only_to_the_deviation_of_the_coefficients_whose_onset_it_contains() -> None:
    features, prior = made([0, BETWEEN, BETWEEN, 20, 20]), prior_of(light=0.75, heavy=0.25)
    found = refined_onset(features, AROUND, 3, prior)
    assert found is not None
    assert found.timestamp == AROUND[1]
    assert found.deviation == pytest.approx(math.sqrt(0.1875 * 61.0**2 + 0.75 * 0.5**2 + 0.25 * 30.0**2))
    assert refined_live(features, AROUND, 3, prior) == found[:2]


def test_an_onset_before_the_first_result_of_the_filter_is_not_refined() -> None:
    features = made([BETWEEN] * 4, known=[0, 1, 1, 1])
    light, heavy = prior_of(light=1.0, heavy=0.0), prior_of(light=0.25, heavy=0.75)
    assert refined_onset(features, TIMES[:4], 2, light) is None
    assert refined_live(features, TIMES[:4], 2, light) == (-1.0, -1.0)
    predicted = refined_onset(features, TIMES[:4], 2, heavy)
    assert predicted is not None
    assert predicted.timestamp > TIMES[3]
    assert refined_live(features, TIMES[:4], 2, heavy) == predicted[:2]


def test_nothing_is_refined_without_a_result_at_the_last_step() -> None:
    assert refined_onset(made([0, 20, 20], known=[1, 1, 0]), TIMES[:3], 1, PRIOR) is None
    not_computed = np.full((3, len(FEATURES)), np.nan, np.float32)
    assert refined_onset(not_computed, TIMES[:3], 1, PRIOR) is None


def test_measurements_more_than_20_s_after_the_alarm_change_nothing() -> None:
    times = 1.7e9 + np.array([0.0, 10.0, 30.0, 30.5])
    features = made([0, BETWEEN, BETWEEN, 20])
    found = refined_onset(features, times, 1, prior_of(light=0.0, heavy=1.0))
    assert found == refined_onset(features[:3], times[:3], 1, prior_of(light=0.0, heavy=1.0))
    assert found is not None
    assert found.hindsight == LONGEST_HINDSIGHT


def alarm_of(features: np.ndarray) -> int | None:
    """First step at which the filter gives an onset a probability of at least a half."""
    drag, deviation, peak, _, speed = features[:, KNOWN + 1 :].astype(np.float64).T
    known = np.flatnonzero(features[:, KNOWN] > 0.0)
    weight = posterior(drag[known], deviation[known], speed[known], PRIOR)
    begun = known[has_begun(weight, peak[known]) >= 0.5]
    return int(begun[0]) if len(begun) else None


def test_the_refined_onset_of_simulated_flights_is_closer_than_the_causal_one() -> None:
    causal, refined, scaled = [], [], []
    for flight, features, onset in labelled_flights():
        alarm = alarm_of(features)
        if alarm is None:
            continue
        time = flight[:, 0]
        used = time <= time[alarm] + 10.0
        found = refined_onset(features[used], time[used], alarm, PRIOR)
        assert found is not None
        causal.append(time[alarm] - time[onset])
        refined.append(found.timestamp - time[onset])
        scaled.append(refined[-1] / found.deviation)
    assert len(refined) >= 20
    assert np.sqrt(np.mean(np.square(refined))) < 0.6 * np.sqrt(np.mean(np.square(causal)))
    assert np.sqrt(np.mean(np.square(refined))) < 1.2
    assert np.sqrt(np.mean(np.square(scaled))) < 1.5  # the deviation is honest


def test_live_tracks_get_the_bits_of_whole_tracks_whatever_other_tracks_a_scan_has() -> None:
    flights = labelled_flights()
    alarms = [alarm_of(features) for _, features, _ in flights]
    history, rng = LiveRefinement(PRIOR), np.random.default_rng(2)
    history.widen(len(flights))
    steps, compared = np.zeros(len(flights), int), 0
    while True:
        left = np.flatnonzero(steps < [len(flight) for flight, _, _ in flights])
        if not len(left):
            break
        places = rng.permutation(left)[: rng.integers(1, len(left) + 1)]
        rows = [(flights[place], steps[place]) for place in places]
        features = np.stack([features[step] for (_, features, _), step in rows])
        time = np.array([flight[step, 0] for (flight, _, _), step in rows])
        alarm = np.array(
            [
                NO_ONSET_TIMESTAMP if alarms[place] is None or step < alarms[place] else flight[alarms[place], 0]
                for place, ((flight, _, _), step) in zip(places, rows, strict=True)
            ]
        )
        refined = history.advance(places, features, time, alarm)
        for place, ((flight, whole, _), step), *got in zip(places, rows, *refined, strict=True):
            first = alarms[place]
            expected = None
            if first is not None and step >= first and flight[step, 0] - flight[first, 0] <= LONGEST_HINDSIGHT:
                expected = refined_onset(whole[: step + 1], flight[: step + 1, 0], first, PRIOR)
                compared += expected is not None
            assert got == ([-1.0, -1.0] if expected is None else list(expected[:2]))
        steps[places] += 1
    assert compared >= 200


def test_places_of_dropped_tracks_move_up() -> None:
    history = LiveRefinement(prior_of(light=1.0, heavy=0.0))
    history.widen(3)
    for step in range(3):
        features = np.concatenate([made([pressure]) for pressure in (0.0, 20.0 * step, BETWEEN * (step > 1))])
        history.advance(np.array([0, 1, 2]), features, TIMES[[step] * 3], np.full(3, NO_ONSET_TIMESTAMP))
    history.keep(np.array([1, 2]))
    history.widen(1)
    assert len(history) == 3
    times, _ = history.advance(np.array([0, 1, 2]), made([20.0, BETWEEN, 0.0]), TIMES[[3] * 3], TIMES[[3] * 3])
    assert times[:2].tolist() == [TIMES[1], TIMES[2]]
    assert times[2] > TIMES[3]


def test_the_prior_of_a_version_is_read_from_its_reference(tmp_path: Path) -> None:
    priors = OrbitPriors(tmp_path)
    assert priors.of(1) is None
    write_reference(tmp_path / "1", PRIOR)
    np.testing.assert_array_equal(priors.of(1), PRIOR)
    write_reference(tmp_path / "2", None)
    assert priors.of(2) is None
