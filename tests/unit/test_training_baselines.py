"""The baselines, fitted on the training split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reentry.decision import DecisionConfig
from reentry.errors import InputError
from reentry.schema import FEATURES
from tests.training_data import short_samples
from training.baselines import AltitudeFraction, Baseline, Logistic, OnsetAltitude, baselines, predict_with
from training.metrics import score


def column(features: torch.Tensor, name: str) -> np.ndarray:
    return features[:, FEATURES.index(name)].numpy()


def test_the_onset_altitude_is_the_mean_over_the_training_tracks(tmp_path: Path) -> None:
    samples, baseline = short_samples(tmp_path), OnsetAltitude()
    baseline.fit(samples)
    at_onset = [column(sample.features, "altitude")[int(sample.phase.argmax())] for sample in samples]
    assert baseline.altitude == pytest.approx(np.mean(at_onset))


def test_the_onset_altitude_is_not_taken_for_reentry_on_the_way_up(tmp_path: Path) -> None:
    samples, baseline = short_samples(tmp_path), OnsetAltitude()
    baseline.fit(samples)
    for prediction in predict_with(baseline, samples):
        assert prediction.probability[: len(prediction.probability) // 4].max() == 0.0


def test_the_altitude_fraction_is_near_a_half_and_exact_on_simulated_flights(tmp_path: Path) -> None:
    baseline = AltitudeFraction()
    baseline.fit(short_samples(tmp_path, tracks=60))
    assert 0.5 < baseline.fraction < 0.52
    figures = score(predict_with(baseline, short_samples(tmp_path, tracks=30, seed=5)), DecisionConfig())
    assert figures.onset_within_step == 1.0


@pytest.mark.parametrize("baseline", [OnsetAltitude(), AltitudeFraction()])
def test_a_threshold_is_a_probability_of_one_half(tmp_path: Path, baseline: Baseline) -> None:
    samples = short_samples(tmp_path)
    baseline.fit(samples)
    name, threshold = (
        ("altitude", baseline.altitude)
        if isinstance(baseline, OnsetAltitude)
        else ("altitude_fraction", getattr(baseline, "fraction", np.nan))
    )
    features = samples[0].features.numpy().astype(np.float64)
    descending = features[:, FEATURES.index("climb_rate")] < -100.0
    below = features[:, FEATURES.index(name)] <= threshold
    assert ((baseline.probability(features) >= 0.5) == below)[descending].all()
    assert below[descending].any()


def test_logistic_regression_ranks_the_steps_of_tracks_it_has_not_seen(tmp_path: Path) -> None:
    baseline = Logistic()
    baseline.fit(short_samples(tmp_path, tracks=20))
    figures = score(predict_with(baseline, short_samples(tmp_path, tracks=10, seed=5)), DecisionConfig())
    assert figures.roc_auc > 0.98
    assert figures.missed_onsets == 0


def test_every_baseline_has_its_own_name() -> None:
    assert len({baseline.name for baseline in baselines()}) == 3


def test_without_an_onset_the_thresholds_cannot_be_fitted(tmp_path: Path) -> None:
    samples = [replace(sample, phase=torch.ones_like(sample.phase)) for sample in short_samples(tmp_path)]
    with pytest.raises(InputError, match="no track to fit the baselines on"):
        AltitudeFraction().fit(samples)
