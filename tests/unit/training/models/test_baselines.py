"""The baselines: what they fit, and what they predict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from reentry.decision import DecisionConfig
from reentry.errors import InputError
from reentry.schema import FEATURES
from reentry.simulation import BallisticConfig, of_severity, simulate_ballistic
from reentry.tracks import write_tracks
from tests.training_data import short_samples
from training.data.samples import Sample, read_labelled
from training.evaluation.metrics import score
from training.models.baselines import (
    AltitudeFraction,
    AltitudeThreshold,
    Baseline,
    BoostedTrees,
    DragThreshold,
    ElapsedFraction,
    Logistic,
    OnsetAltitude,
    baselines,
    predict_with,
)


def column(features: torch.Tensor, name: str) -> np.ndarray:
    return features[:, FEATURES.index(name)].numpy()


def test_the_onset_altitude_is_the_mean_over_the_training_tracks(tmp_path: Path) -> None:
    samples, baseline = short_samples(tmp_path), OnsetAltitude()
    baseline.fit(samples)
    at_onset = [column(sample.features, "altitude")[int(sample.phase.argmax())] for sample in samples]
    assert baseline.altitude == pytest.approx(np.mean(at_onset))


def test_the_onset_altitude_does_not_mark_ascending_steps(tmp_path: Path) -> None:
    samples, baseline = short_samples(tmp_path), OnsetAltitude()
    baseline.fit(samples)
    for prediction in predict_with(baseline, samples):
        assert prediction.probability[: len(prediction.probability) // 4].max() == 0.0


def test_the_altitude_fraction_is_near_a_half_and_exact_on_simulated_flights(tmp_path: Path) -> None:
    baseline = AltitudeFraction()
    baseline.fit(short_samples(tmp_path, tracks=60))
    assert baseline.fraction == pytest.approx(0.5, abs=0.01)
    figures = score(predict_with(baseline, short_samples(tmp_path, tracks=30, seed=5)), DecisionConfig())
    assert figures.onset_within_step == 1.0


def test_the_elapsed_fraction_is_exact_for_the_label_rule_flight(tmp_path: Path) -> None:
    baseline = ElapsedFraction()
    baseline.fit(short_samples(tmp_path, tracks=90))
    assert baseline.fraction == pytest.approx(0.85, abs=1e-3)
    figures = score(predict_with(baseline, short_samples(tmp_path, tracks=30, seed=5)), DecisionConfig())
    assert (figures.onset_exact, figures.onset_rmse) == (1.0, 0.0)


@pytest.mark.parametrize("baseline", [OnsetAltitude(), AltitudeFraction()])
def test_the_probability_at_a_threshold_is_one_half(tmp_path: Path, baseline: Baseline) -> None:
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


def test_logistic_regression_ranks_the_steps_of_unseen_tracks(tmp_path: Path) -> None:
    baseline = Logistic()
    baseline.fit(short_samples(tmp_path, tracks=20))
    figures = score(predict_with(baseline, short_samples(tmp_path, tracks=10, seed=5)), DecisionConfig())
    assert figures.roc_auc > 0.98
    assert figures.missed_onsets == 0


def test_every_baseline_has_its_own_name() -> None:
    others = BoostedTrees(), AltitudeThreshold(), DragThreshold()
    assert len({baseline.name for baseline in (*baselines(), *others)}) == 7


@pytest.fixture(scope="module")
def ballistic() -> list[Sample]:
    """Ballistic flights as measured by good sensors."""
    table = simulate_ballistic(BallisticConfig(tracks=24, seed=7, sensors=of_severity(1)))
    with TemporaryDirectory() as folder:
        write_tracks(Path(folder) / "shots.parquet", [table])
        return list(read_labelled(Path(folder) / "shots.parquet"))


def test_the_fitted_altitude_threshold_has_the_least_onset_error(ballistic: list[Sample]) -> None:
    found, other = AltitudeThreshold(), AltitudeThreshold()
    found.fit(ballistic)

    def rmse(baseline: Baseline) -> float:
        return score(predict_with(baseline, ballistic), DecisionConfig()).onset_rmse

    assert 20e3 <= found.altitude <= 90e3
    for altitude in (found.altitude - 2.5e3, found.altitude + 2.5e3, 20e3, 87.5e3):
        other.set(altitude)
        assert rmse(found) <= rmse(other)


@pytest.mark.parametrize("baseline", [AltitudeThreshold(), DragThreshold()])
def test_a_threshold_marks_no_step_before_the_track_is_falling(ballistic: list[Sample], baseline: Baseline) -> None:
    baseline.fit(ballistic)
    for prediction, sample in zip(predict_with(baseline, ballistic), ballistic, strict=True):
        rising = column(sample.features, "drop_from_peak") <= 3000.0
        assert rising[:60].all()  # in boost
        assert prediction.probability[rising].max() < 0.2


def test_a_single_outlier_does_not_cross_the_altitude_threshold(ballistic: list[Sample]) -> None:
    baseline = AltitudeThreshold()
    baseline.set(50e3)
    features = ballistic[0].features.numpy().astype(np.float64)
    coasting = np.flatnonzero((column(ballistic[0].features, "drop_from_peak") > 5e3) & (features[:, 0] > 80e3))
    features[coasting[20], FEATURES.index("altitude")] = 0.0
    assert baseline.probability(features)[coasting[18:23]].max() < 0.5


def test_a_deceleration_threshold_marks_only_enough_consecutive_steps() -> None:
    features = np.zeros((6, len(FEATURES)))
    features[:, FEATURES.index("drop_from_peak")] = 1e4
    features[:, FEATURES.index("drag_short")] = np.arcsinh(np.array([0.0, 3.0, 3.0, 0.0, 3.0, 3.0]) / 0.3)
    baseline = DragThreshold()
    baseline.set("drag_short", 1.0, 2)
    assert (baseline.probability(features) >= 0.5).tolist() == [False, False, True, False, False, True]


def test_boosted_trees_are_repeatable_causal_and_accurate(ballistic: list[Sample]) -> None:
    first, second = BoostedTrees(20, seed=3), BoostedTrees(20, seed=3)
    for trees in (first, second):
        trees.fit(ballistic)
    a, b = (predict_with(trees, ballistic) for trees in (first, second))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.probability, other.probability)
    figures = score(a, DecisionConfig())
    assert figures.missed_onsets == 0
    assert figures.f1 > 0.95
    assert first.parameters > 20 * 3
    whole = ballistic[0].features.numpy().astype(np.float64)
    np.testing.assert_array_equal(first.probability(whole[:100]), first.probability(whole)[:100])  # causal


def test_thresholds_cannot_be_fitted_without_an_onset(tmp_path: Path) -> None:
    samples = [replace(sample, phase=torch.ones_like(sample.phase)) for sample in short_samples(tmp_path)]
    with pytest.raises(InputError, match="no track to fit the baselines on"):
        AltitudeFraction().fit(samples)
