"""The orbit filter under different priors, and the calibration of its deviations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.schema import FEATURES
from reentry.simulation import ShotConfig
from training.data.samples import Sample
from training.studies import prior_transfer
from training.studies.prior_transfer import calibration, simulated, simulator_prior, table


def test_the_prior_of_the_simulator_has_its_coefficients_and_decoys_from_their_range_on() -> None:
    prior = simulator_prior(ShotConfig())
    np.testing.assert_allclose(prior.sum(axis=1), 1.0)
    decoy = (COEFFICIENTS > 60.0) & (COEFFICIENTS < 600.0)
    vehicle = (COEFFICIENTS > 1_500.0) & (COEFFICIENTS < 15_000.0)
    assert prior[:, ~decoy & ~vehicle].sum() < 0.05 * len(SPEEDS)  # only at the edges, for the width of a cell
    share = prior[:, decoy].sum(axis=1)
    assert share[0] < 0.01  # short shots
    assert share[-1] == pytest.approx(0.25, abs=0.02)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return simulated(ShotConfig(), 4, severity=0, seed=8)


def with_factors(sample: Sample, before: float, settled: float, deviation: float) -> Sample:
    """Flight whose drag factor has these values before and from 10 s after the onset."""
    features = sample.features.clone()
    late = int(sample.phase.argmax()) + 10
    features[:, FEATURES.index("orbit_known")] = 1.0
    features[:late, FEATURES.index("orbit_drag_factor")] = before
    features[late:, FEATURES.index("orbit_drag_factor")] = settled
    features[:late, FEATURES.index("orbit_drag_deviation")] = deviation
    features[late:, FEATURES.index("orbit_drag_deviation")] = 1e-4
    return replace(sample, features=features)


def test_the_calibration_is_the_error_relative_to_the_predicted_deviation(samples: list[Sample]) -> None:
    flights = [with_factors(samples[0], 1.2, 1.0, 0.1), with_factors(samples[1], 0.6, 1.0, 0.1)]
    found = calibration(flights, -10.0)
    assert found.flights == 2
    assert found.mean == pytest.approx(-1.0, rel=1e-5)
    assert found.spread == pytest.approx(3.0, rel=1e-5)


def test_flights_whose_factor_stays_uncertain_do_not_calibrate(samples: list[Sample]) -> None:
    uncertain = with_factors(samples[0], 1.2, 1.0, 0.1)
    features = uncertain.features.clone()
    features[:, FEATURES.index("orbit_drag_deviation")] = 0.2
    found = calibration([replace(uncertain, features=features)], 0.0)
    assert found.flights == 0
    assert np.isnan(found.spread)
    unknown = replace(uncertain, features=torch.zeros_like(features))
    assert calibration([unknown], 0.0).flights == 0


def test_both_tables_have_a_row_for_each_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_transfer, "JUDGED", (1,))
    lines = list(table(3, 2))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
    priors = ["flat", "the simulator's", "learned"]
    assert [row[:3] for row in rows[2:9]] == [
        *(["default", "1", name] for name in priors),
        *(["other", "1", name] for name in [*priors, "learned on default coefficients"]),
    ]
    assert all(float(row[3]) > 0.0 for row in rows[2:9])
    assert [row[0] for row in rows[11:]] == ["default", "other"]
    assert len({len(row) for row in rows[9:]}) == 1
