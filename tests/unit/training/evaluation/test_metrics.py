"""Metrics of predictions: worked out by hand, and accumulated in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reentry.decision import DecisionConfig
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.tracks import Track
from tests.training_data import short_samples
from training.evaluation.metrics import MetricsAccumulator, Prediction, onset_errors, score
from training.evaluation.reliability import reliability

DECISION = DecisionConfig(enter=0.5, leave=0.5)


def prediction(truth: list[int], probability: list[float], *, step: float = 0.5) -> Prediction:
    steps = len(truth)
    measurements = np.zeros((steps, len(MEASUREMENT_COLUMNS)))
    measurements[:, 0] = 1.7e9 + step * np.arange(steps)
    track = Track(
        track_id=0,
        measurements=measurements,
        reentry_phase=np.array(truth, dtype=np.int8),
        rows=np.arange(steps),
        steps=np.arange(steps),
    )
    return Prediction(track=track, probability=np.array(probability))


EXACT = prediction([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
EARLY = prediction([0, 0, 0, 1], [0.1, 0.7, 0.8, 0.9])
LATE = prediction([0, 1, 1, 1], [0.1, 0.4, 0.8, 0.9])
MISSED = prediction([0, 1, 1, 1], [0.1, 0.1, 0.1, 0.1])
FALSE = prediction([0, 0, 0, 0], [0.1, 0.9, 0.9, 0.9])
NONE = prediction([0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1])


def test_a_perfect_prediction_has_perfect_metrics() -> None:
    metrics = score([EXACT], DECISION)
    assert (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1, metrics.roc_auc) == (1, 1, 1, 1, 1)
    assert (metrics.onset_rmse, metrics.onset_mae, metrics.onset_worst, metrics.onset_exact) == (0, 0, 0, 1)


def test_onset_errors_are_predicted_minus_true_in_seconds() -> None:
    assert onset_errors([EXACT, EARLY, LATE], DECISION).tolist() == [0.0, -1.0, 0.5]


def test_onset_metrics_are_means_over_tracks() -> None:
    metrics = score([EXACT, EARLY, LATE], DECISION)
    assert metrics.onset_rmse == pytest.approx(math.sqrt((0 + 1 + 0.25) / 3))
    assert metrics.onset_mae == pytest.approx(0.5)
    assert metrics.onset_worst == 1.0
    assert metrics.onset_exact == pytest.approx(1 / 3)
    assert metrics.onset_within_step == pytest.approx(2 / 3)
    assert (metrics.missed_onsets, metrics.false_onsets) == (0, 0)


def test_a_missed_onset_counts_as_one_step_after_the_end() -> None:
    assert onset_errors([MISSED], DECISION).tolist() == [1.5]
    metrics = score([EXACT, MISSED], DECISION)
    assert (metrics.missed_onsets, metrics.onset_worst, metrics.onset_exact) == (1, 1.5, 0.5)


def test_a_false_onset_counts_against_one_step_after_the_end() -> None:
    assert onset_errors([FALSE], DECISION).tolist() == [-1.5]
    assert score([EXACT, FALSE], DECISION).false_onsets == 1


def test_a_track_correctly_predicted_without_an_onset_has_no_error() -> None:
    assert onset_errors([NONE], DECISION).tolist() == [0.0]


def test_step_metrics_are_over_all_steps_of_all_tracks() -> None:
    metrics = score([EARLY, LATE], DECISION)  # hits 1 + 2, false 2, missed 1, of 8
    assert (metrics.tracks, metrics.steps) == (2, 8)
    assert metrics.accuracy == pytest.approx(5 / 8)
    assert metrics.precision == pytest.approx(3 / 5)
    assert metrics.recall == pytest.approx(3 / 4)
    assert metrics.f1 == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert metrics.roc_auc == pytest.approx((4 * 4 - 1 - 1.5) / 16)


def test_onsets_use_the_thresholds_of_the_decision() -> None:
    late = score([LATE], DecisionConfig(enter=0.4, leave=0.2))
    assert late.onset_exact == 1.0


def test_a_ratio_with_a_zero_denominator_is_nan() -> None:
    metrics = score([NONE], DECISION)
    assert math.isnan(metrics.precision)
    assert math.isnan(metrics.roc_auc)
    assert metrics.accuracy == 1.0


def test_a_track_of_one_step_is_scored() -> None:
    assert onset_errors([prediction([1], [0.1])], DECISION).tolist() == [0.0]


def test_the_detection_delay_ends_at_the_first_predicted_step_at_or_after_the_onset() -> None:
    assert score([EXACT], DECISION).detection_delay == 0.0
    assert score([EARLY], DECISION).detection_delay == 0.0
    assert score([EARLY, LATE], DECISION).detection_delay == 0.25
    assert score([MISSED], DECISION).detection_delay == 1.5
    interrupted = prediction([0, 0, 1, 1, 1], [0.1, 0.9, 0.1, 0.1, 0.9])
    assert score([interrupted], DECISION).detection_delay == 1.0
    assert math.isnan(score([NONE], DECISION).detection_delay)


def test_a_false_alarm_comes_long_before_the_onset_or_has_none() -> None:
    at_the_limit = prediction([0] * 11 + [1], [0.1, 0.9] + [0.9] * 10)
    before_it = prediction([0] * 12 + [1], [0.1, 0.9] + [0.9] * 11)
    assert score([at_the_limit, EXACT, MISSED, NONE], DECISION).false_alarms == 0.0
    assert score([before_it, EXACT, MISSED, NONE], DECISION).false_alarms == 250.0
    assert score([FALSE, EXACT], DECISION).false_alarms == 500.0


def test_the_brier_score_is_a_mean_over_all_steps() -> None:
    assert score([EXACT, MISSED], DECISION).brier == pytest.approx(
        (0.01 + 0.04 + 0.04 + 0.01 + 0.01 + 3 * 0.81) / 8, abs=1e-12
    )


def test_reliability_compares_predicted_probability_and_observed_share_in_each_bin() -> None:
    found = reliability([prediction([0, 0, 1, 1], [0.05, 0.62, 0.66, 1.0]), prediction([1, 0], [0.01, 0.6])], bins=10)
    assert found.steps.tolist() == [2, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    np.testing.assert_allclose(found.predicted[[0, 6, 9]], [0.03, (0.62 + 0.66 + 0.6) / 3, 1.0])
    np.testing.assert_allclose(found.observed[[0, 6, 9]], [0.5, 1 / 3, 1.0])
    assert np.isnan(found.predicted[1])
    assert found.error == pytest.approx((2 * 0.47 + 3 * ((0.62 + 0.66 + 0.6) / 3 - 1 / 3)) / 6)


def noisy_predictions(folder: Path, dtype: type = np.float32) -> list[Prediction]:
    """Predictions with ties, 0 and 1 for a dozen tracks: two without an onset, one entirely in reentry."""
    random = np.random.default_rng(0)
    predictions = []
    for number, sample in enumerate(short_samples(folder, tracks=12)):
        phase = np.full(len(sample.phase), {3: 0, 4: 0, 8: 1}.get(number, -1), dtype=np.int8)
        phase = np.where(phase < 0, sample.phase.numpy(), phase).astype(np.int8)
        probability = np.clip(np.round(phase + random.normal(0.0, 0.4, len(phase)), 2), 0.0, 1.0)
        predictions.append(
            Prediction(track=replace(sample.track, reentry_phase=phase), probability=probability.astype(dtype))
        )
    return predictions


def merged(predictions: Sequence[Prediction], tracks: int, exact_steps: float = math.inf) -> dict[str, float]:
    """Metrics of accumulators that have counted so many tracks each."""
    total = MetricsAccumulator(DECISION, exact_steps)
    for start in range(0, len(predictions), tracks):
        part = MetricsAccumulator(DECISION, exact_steps)
        for one in predictions[start : start + tracks]:
            part.add(one)
        total.merge(part)
    return total.result().as_dict()


def assert_close(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == pytest.approx(other[name], rel=1e-6, nan_ok=True), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tracks", [1, 5, 12])
def test_metrics_of_merged_accumulators_match_the_whole_exactly(tmp_path: Path, dtype: type, tracks: int) -> None:
    predictions = noisy_predictions(tmp_path, dtype)
    whole = score(predictions, DECISION)
    assert whole.missed_onsets + whole.false_onsets > 0
    assert merged(predictions, tracks) == whole.as_dict()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exact_steps", [1, 150, 400])
def test_metrics_in_bounded_memory_match_the_whole(tmp_path: Path, dtype: type, exact_steps: int) -> None:
    predictions = noisy_predictions(tmp_path, dtype)
    whole = score(predictions, DECISION).as_dict()
    assert_close(score(iter(predictions), DECISION, exact_steps=exact_steps).as_dict(), whole)
    assert_close(merged(predictions, 5, exact_steps), whole)


def test_metrics_of_a_single_part_match_the_whole_exactly(tmp_path: Path) -> None:
    predictions = noisy_predictions(tmp_path)
    assert score(predictions, DECISION, exact_steps=1_000_000) == score(predictions, DECISION)


def test_the_binned_roc_auc_is_accurate_near_0_and_1(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    predictions = [
        replace(p, probability=(1.0 / (1.0 + np.exp(random.normal(0.0, 8.0, len(p.probability))))).astype(np.float32))
        for p in noisy_predictions(tmp_path)
    ]
    whole, binned = score(predictions, DECISION), score(predictions, DECISION, exact_steps=200)
    assert binned.roc_auc == pytest.approx(whole.roc_auc, abs=1e-5)


def test_metrics_without_cases_are_nan_in_bounded_memory_too(tmp_path: Path) -> None:
    predictions = [
        replace(p, track=replace(p.track, reentry_phase=np.zeros(len(p.track), np.int8)))
        for p in noisy_predictions(tmp_path)
    ]
    binned = score(predictions, DECISION, exact_steps=1)
    assert np.isnan([binned.roc_auc, binned.detection_delay, binned.recall]).all()
    assert_close(binned.as_dict(), score(predictions, DECISION).as_dict())


def test_reliability_over_tracks_is_that_of_all_their_steps(tmp_path: Path) -> None:
    predictions = [replace(p, probability=p.probability * np.float32(0.5)) for p in noisy_predictions(tmp_path)]
    found = reliability(iter(predictions))
    probability = np.concatenate([p.probability for p in predictions]).astype(np.float64)
    labels = np.concatenate([p.track.reentry_phase for p in predictions if p.track.reentry_phase is not None])
    index = np.minimum((probability * 10).astype(np.int64), 9)
    assert found.steps.tolist() == np.bincount(index, minlength=10).tolist()
    assert 0 in found.steps
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found.predicted, np.bincount(index, probability, minlength=10) / found.steps)
        np.testing.assert_array_equal(found.observed, np.bincount(index, labels, minlength=10) / found.steps)
