"""Inputs of a network from the orbit filter, and the network that answers with the filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reentry.features.orbit_posterior import has_begun, posterior
from reentry.schema import FEATURES, ORBIT_FEATURES
from training.config import ModelConfig
from training.models.networks import network
from training.models.orbit_inputs import ORBIT_INPUTS, OrbitInputs

KNOWN = {
    "orbit_known": 1.0,
    "orbit_drag_factor": 0.3,
    "orbit_drag_deviation": 0.1,
    "orbit_peak_pressure": 3.5,
    "orbit_pressure_rise": 0.2,
    "orbit_entry_speed": 5_000.0,
}


def orbit_features(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([[value]]) for name, value in (KNOWN | values).items()}


def test_the_last_input_is_the_logit_of_the_posterior() -> None:
    inputs = OrbitInputs()(orbit_features())
    flat = np.full((7, 128), 1.0 / 128)
    expected = has_begun(posterior(np.array(0.3), np.array(0.1), np.array(5_000.0), flat), np.array(3.5))
    assert len(inputs) == ORBIT_INPUTS
    assert float(inputs[-1]) == pytest.approx(math.log(expected / (1.0 - expected)), abs=1e-4)


def test_all_inputs_are_zero_where_the_filter_knows_nothing() -> None:
    inputs = OrbitInputs()(orbit_features(**dict.fromkeys(ORBIT_FEATURES, 0.0)))
    assert [float(x) for x in inputs] == [0.0] * ORBIT_INPUTS


def test_the_wait_falls_as_the_pressure_rises() -> None:
    head = OrbitInputs()
    waits = [float(head(orbit_features(orbit_peak_pressure=peak))[5]) for peak in (1.0, 2.5, 3.5, 5.0)]
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == 0.0


@pytest.mark.parametrize(
    "values",
    [
        {"orbit_drag_factor": 3e4, "orbit_drag_deviation": 3e4},
        {"orbit_drag_factor": -3e4, "orbit_drag_deviation": 1e-6},
        {"orbit_pressure_rise": 0.0, "orbit_peak_pressure": -6.0},
        {"orbit_entry_speed": 0.0, "orbit_peak_pressure": 9.0},
    ],
)
def test_inputs_are_finite_for_extreme_results(values: dict[str, float]) -> None:
    for x in OrbitInputs()(orbit_features(**values)):
        assert torch.isfinite(x).all()


@torch.no_grad()
def test_a_network_has_the_logit_of_the_filter_where_the_filter_has_a_result() -> None:
    model = network(ModelConfig(features=("altitude", *ORBIT_FEATURES), harmonics=(), magnified=())).eval()
    features = torch.zeros(1, 3, len(FEATURES))
    for name, value in KNOWN.items():
        features[0, 1:, FEATURES.index(name)] = value
    logits, _ = model(features)
    logit = float(OrbitInputs()(orbit_features())[-1])
    np.testing.assert_allclose(logits[0, 1:].numpy(), [logit, logit], atol=1e-5)
    assert float(logits[0, 0]) != 0.0


@torch.no_grad()
def test_the_learned_prior_is_part_of_the_weights() -> None:
    config = ModelConfig(features=ORBIT_FEATURES, harmonics=(), magnified=())
    first, second = network(config), network(config)
    settled = torch.zeros(50, len(FEATURES))
    for name, value in KNOWN.items():
        settled[:, FEATURES.index(name)] = value
    first.fit_prior(settled)
    second.load_state_dict(first.state_dict())
    prior = second.orbit_prior()
    assert prior is not None
    assert prior.max() > 2.0 / 128
    np.testing.assert_allclose(prior.sum(axis=1), 1.0, rtol=1e-5)
    assert network(ModelConfig()).orbit_prior() is None


@torch.no_grad()
def test_features_that_were_not_computed_make_the_logit_nan() -> None:
    model = network(ModelConfig(features=("altitude", *ORBIT_FEATURES), harmonics=(), magnified=())).eval()
    features = torch.zeros(1, 2, len(FEATURES))
    for name in ORBIT_FEATURES:
        features[0, 1, FEATURES.index(name)] = math.nan
    logits, _ = model(features)
    assert torch.isfinite(logits[0, 0])
    assert torch.isnan(logits[0, 1])


def test_inputs_are_computed_on_the_device_of_the_features() -> None:
    # The device "meta" has no values, but refuses to be mixed with others as a GPU does.
    features = {name: torch.zeros(1, 2, device="meta") for name in ORBIT_FEATURES}
    assert {x.device.type for x in OrbitInputs().to("meta")(features)} == {"meta"}
