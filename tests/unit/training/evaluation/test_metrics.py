"""Figures of predictions, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reentry.decision import DecisionConfig
from reentry.schema import MEASUREMENT_COLUMNS
from reentry.tracks import Track
from training.evaluation.metrics import Prediction, onset_errors, reliability, score

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


def test_a_perfect_prediction_has_perfect_figures() -> None:
    metrics = score([EXACT], DECISION)
    assert (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1, metrics.roc_auc) == (1, 1, 1, 1, 1)
    assert (metrics.onset_rmse, metrics.onset_mae, metrics.onset_worst, metrics.onset_exact) == (0, 0, 0, 1)


def test_onset_errors_are_predicted_minus_true_in_seconds() -> None:
    assert onset_errors([EXACT, EARLY, LATE], DECISION).tolist() == [0.0, -1.0, 0.5]


def test_onset_figures_are_over_tracks() -> None:
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


def test_a_track_rightly_left_without_onset_has_no_error() -> None:
    assert onset_errors([NONE], DECISION).tolist() == [0.0]


def test_figures_per_step_are_over_all_steps_of_all_tracks() -> None:
    metrics = score([EARLY, LATE], DECISION)  # hits 1 + 2, false 2, missed 1, of 8
    assert (metrics.tracks, metrics.steps) == (2, 8)
    assert metrics.accuracy == pytest.approx(5 / 8)
    assert metrics.precision == pytest.approx(3 / 5)
    assert metrics.recall == pytest.approx(3 / 4)
    assert metrics.f1 == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert metrics.roc_auc == pytest.approx((4 * 4 - 1 - 1.5) / 16)


def test_the_thresholds_are_those_of_the_decision() -> None:
    late = score([LATE], DecisionConfig(enter=0.4, leave=0.2))
    assert late.onset_exact == 1.0


def test_a_ratio_without_cases_is_nan() -> None:
    metrics = score([NONE], DECISION)
    assert math.isnan(metrics.precision)
    assert math.isnan(metrics.roc_auc)
    assert metrics.accuracy == 1.0


def test_a_track_of_one_step_is_scored() -> None:
    assert onset_errors([prediction([1], [0.1])], DECISION).tolist() == [0.0]


def test_the_delay_is_from_the_onset_to_the_first_step_in_reentry_that_is_not_before_it() -> None:
    assert score([EXACT], DECISION).detection_delay == 0.0
    assert score([EARLY], DECISION).detection_delay == 0.0
    assert score([EARLY, LATE], DECISION).detection_delay == 0.25
    assert score([MISSED], DECISION).detection_delay == 1.5
    gone_again = prediction([0, 0, 1, 1, 1], [0.1, 0.9, 0.1, 0.1, 0.9])
    assert score([gone_again], DECISION).detection_delay == 1.0
    assert math.isnan(score([NONE], DECISION).detection_delay)


def test_a_false_alarm_is_long_before_the_onset_or_without_one() -> None:
    at_the_limit = prediction([0] * 11 + [1], [0.1, 0.9] + [0.9] * 10)
    before_it = prediction([0] * 12 + [1], [0.1, 0.9] + [0.9] * 11)
    assert score([at_the_limit, EXACT, MISSED, NONE], DECISION).false_alarms == 0.0
    assert score([before_it, EXACT, MISSED, NONE], DECISION).false_alarms == 250.0
    assert score([FALSE, EXACT], DECISION).false_alarms == 500.0


def test_the_brier_score_is_over_all_steps() -> None:
    assert score([EXACT, MISSED], DECISION).brier == pytest.approx(
        (0.01 + 0.04 + 0.04 + 0.01 + 0.01 + 3 * 0.81) / 8, abs=1e-12
    )


def test_reliability_holds_what_was_given_beside_what_came() -> None:
    found = reliability([prediction([0, 0, 1, 1], [0.05, 0.62, 0.66, 1.0]), prediction([1, 0], [0.01, 0.6])], bins=10)
    assert found.steps.tolist() == [2, 0, 0, 0, 0, 0, 3, 0, 0, 1]
    np.testing.assert_allclose(found.predicted[[0, 6, 9]], [0.03, (0.62 + 0.66 + 0.6) / 3, 1.0])
    np.testing.assert_allclose(found.observed[[0, 6, 9]], [0.5, 1 / 3, 1.0])
    assert np.isnan(found.predicted[1])
    assert found.error == pytest.approx((2 * 0.47 + 3 * ((0.62 + 0.66 + 0.6) / 3 - 1 / 3)) / 6)
