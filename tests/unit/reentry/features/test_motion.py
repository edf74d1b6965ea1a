"""Tests of the estimated motion against simulated flights, and against a Kalman filter on the same measurements."""

from __future__ import annotations

import numpy as np
import pytest

from reentry.features import motion
from reentry.features.standard_atmosphere import log_density
from training.studies.motion_filters import NOISE, Seen, by_blocks, by_kalman, errors, flights


@pytest.fixture(scope="module")
def ordinary() -> list[Seen]:
    """Flights as measured by ordinary sensors, severity 2."""
    return flights(2, 30)


def test_speed_and_climb_rate_are_as_accurate_as_those_of_a_kalman_filter_that_knows_the_noise(
    ordinary: list[Seen],
) -> None:
    ours = errors(ordinary, lambda table: by_blocks(table, 8))
    kalman = errors(ordinary, lambda table: by_kalman(table, NOISE[2]))
    for phase in ("coast", "onset"):
        for name in ("speed", "climb"):
            assert ours[phase, name] < 1.5 * kalman[phase, name]
            assert ours[phase, name] < 20.0
    # The extrapolated drag is noisier than the drag of the filter, which is delayed.
    assert ours["coast", "drag"] < 1.5 * kalman["coast", "drag"]
    assert ours["onset", "drag"] < 2.5 * kalman["onset", "drag"]


def test_a_longer_block_has_a_fraction_of_the_noise(ordinary: list[Seen]) -> None:
    short, medium, long = (errors(ordinary, lambda table, b=b: by_blocks(table, b)) for b in motion.BLOCKS)
    assert long["coast", "drag"] < medium["coast", "drag"] / 3.0 < short["coast", "drag"] / 9.0


def test_the_drag_of_a_short_block_without_noise_is_the_current_drag() -> None:
    ratios = []
    for flight in flights(0, 12, seed=3):
        found, onset = by_blocks(flight.measurements, 2)["drag"], flight.phases["onset"]
        ratios.append(found[onset] / flight.truth["drag"][onset])
        assert np.abs(found[flight.phases["coast"]]).max() < 0.15
    error = np.abs(np.log(np.concatenate(ratios)))
    assert np.median(error) < 0.15
    assert np.quantile(error, 0.9) < 0.35


def test_a_handover_between_sensors_with_different_biases_causes_no_drag() -> None:
    (flight,) = flights(0, 1, seed=3)
    table = flight.measurements.copy()
    half = np.flatnonzero(flight.phases["coast"]).mean().astype(int)
    table[half:, 1] += 0.15 / 111.0  # 150 m to the north
    jump = np.abs(by_blocks(table, 2)["drag"])[half - 5 : half + 40].max()
    table[half:, 5] += 1.0
    handed_over = np.abs(by_blocks(table, 2)["drag"])[half - 5 : half + 40].max()
    assert handed_over < 0.1 * jump


def test_a_single_outlier_hardly_changes_the_motion() -> None:
    (flight,) = flights(0, 1, seed=3)
    table = flight.measurements.copy()
    at = np.flatnonzero(flight.phases["coast"])[100]
    table[at, 3] += 3_000.0
    clean, dirty = (by_blocks(measured, 2) for measured in (flight.measurements, table))
    assert np.abs(clean["speed"] - dirty["speed"]).max() < 5.0
    assert np.abs(clean["drag"] - dirty["drag"])[: at + 60].max() < 5.0


def test_the_air_density_matches_the_standard_atmosphere() -> None:
    # US Standard Atmosphere 1976, table I: geometric altitude, m, and density, kg/m3.
    table = {0.0: 1.2250, 5e3: 0.73643, 25e3: 4.0084e-2, 50e3: 1.0269e-3, 80e3: 1.8458e-5, 100e3: 5.604e-7}
    np.testing.assert_allclose(np.exp(log_density(np.array(list(table)))), list(table.values()), rtol=2e-3)
    assert (np.diff(log_density(np.arange(0.0, 1e6, 500.0))) < 0.0).all()
    assert log_density(np.array([-500.0, 2e6])).tolist() == log_density(np.array([0.0, 1e6])).tolist()
