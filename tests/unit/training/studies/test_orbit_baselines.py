"""The orbit filter alone, and the columns that boosted trees get from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reentry.features.groups import ALL_GROUPS
from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.schema import FEATURES, ORBIT_FEATURES
from reentry.simulation import simulate_file
from training.data.samples import Sample, read_labelled
from training.models.baselines import BoostedTrees
from training.models.orbit_inputs import ORBIT_INPUTS
from training.studies.orbit_baselines import FLAT, OrbitFilterAlone, OrbitTrees, prior_of
from training.studies.study_config import LSTM_FEATURES


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    path = tmp_path_factory.mktemp("flights") / "shots.parquet"
    simulate_file(path, profile="ballistic", tracks=6, seed=3, severity=1, processes=1)
    return read_labelled(path, groups=ALL_GROUPS)


def step(coefficient: float, pressure: float, *, known: float = 1.0) -> np.ndarray:
    """Features of one step at which the coefficient, kg/m2, is known to 5 %, and the highest pressure is given, Pa."""
    values = (known, 1e3 / coefficient, 50.0 / coefficient, np.log10(pressure), 0.1, 5_000.0)
    features = np.zeros((1, len(FEATURES)))
    features[0, [FEATURES.index(name) for name in ORBIT_FEATURES]] = values
    return features


def test_the_onset_has_passed_when_the_pressure_exceeds_that_of_the_coefficient() -> None:
    onset_pressure = 2_000.0 * 0.980665
    alone = OrbitFilterAlone()
    assert alone.probability(step(2_000.0, 0.8 * onset_pressure))[0] < 0.01
    assert alone.probability(step(2_000.0, onset_pressure))[0] == pytest.approx(0.5, abs=0.15)
    assert alone.probability(step(2_000.0, 1.25 * onset_pressure))[0] > 0.99


def test_the_probability_is_zero_where_the_filter_knows_nothing() -> None:
    assert OrbitFilterAlone().probability(step(2_000.0, 1e6, known=0.0)).tolist() == [0.0]


def test_the_orbit_filter_alone_learns_its_prior_and_finds_the_onset(samples: list[Sample]) -> None:
    alone = OrbitFilterAlone()
    alone.fit(samples)
    np.testing.assert_array_equal(alone.prior, prior_of(samples))
    assert alone.prior.shape == FLAT.shape == (len(SPEEDS), len(COEFFICIENTS))
    assert np.abs(alone.prior - FLAT).max() > 0.01
    for sample in samples:
        probability = alone.probability(sample.features.numpy().astype(np.float64))
        onset = int(sample.phase.argmax())
        assert probability[: onset - 30].max() < 0.5
        assert probability[onset + 20 :].min() > 0.5


def test_boosted_trees_get_the_features_and_the_inputs_of_a_network(samples: list[Sample]) -> None:
    trees = BoostedTrees(3, seed=0)
    on_orbit = OrbitTrees(trees, LSTM_FEATURES)
    on_orbit.fit(samples)
    columns = on_orbit.columns(samples[0]).features
    assert columns.shape == (len(samples[0].track), len(LSTM_FEATURES) + ORBIT_INPUTS)
    for place, name in enumerate(LSTM_FEATURES):
        torch.testing.assert_close(columns[:, place], samples[0].features[:, FEATURES.index(name)])
    # The last input is the logit of the filter alone.
    alone = OrbitFilterAlone(prior_of(samples)).probability(samples[0].features.numpy().astype(np.float64))
    known = samples[0].features[:, FEATURES.index("orbit_known")] > 0.0
    passed = np.clip(alone[known.numpy()], 1e-4, 1.0 - 1e-4)
    np.testing.assert_allclose(torch.sigmoid(columns[known, -1]).numpy(), passed, atol=1e-4)
    (prediction, *_) = on_orbit.predict(samples)
    assert prediction.probability[0] < 0.5 < prediction.probability[-1]
