"""Figures taken in parts are those of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reentry.decision import DecisionConfig
from tests.training_data import short_samples
from training.data.stored import StoredPredictions
from training.evaluation.metrics import Prediction, reliability, score
from training.evaluation.parts import reliability_in_parts, score_in_parts

DECISION = DecisionConfig()


def noisy(folder: Path, dtype: type = np.float32) -> list[Prediction]:
    """Of some tracks, two of them without an onset, one all in reentry; probabilities with ties, 0 and 1."""
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


def assert_close(one: dict[str, float], other: dict[str, float], **within: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == pytest.approx(other[name], rel=1e-6, nan_ok=True, **within), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part_steps", [1, 150, 400])
def test_of_several_parts_the_figures_are_those_of_the_whole(tmp_path: Path, dtype: type, part_steps: int) -> None:
    predictions = noisy(tmp_path, dtype)
    whole = score(predictions, DECISION)
    assert whole.missed_onsets + whole.false_onsets > 0
    assert_close(score_in_parts(iter(predictions), DECISION, part_steps).as_dict(), whole.as_dict())


def test_of_one_part_they_are_the_same_to_the_bit(tmp_path: Path) -> None:
    predictions = noisy(tmp_path)
    assert score_in_parts(predictions, DECISION) == score(predictions, DECISION)
    one, other = reliability_in_parts(predictions), reliability(predictions)
    for name in ("steps", "predicted", "observed"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_area_is_off_by_less_than_the_bins_let_it(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    predictions = [
        replace(p, probability=(1.0 / (1.0 + np.exp(random.normal(0.0, 8.0, len(p.probability))))).astype(np.float32))
        for p in noisy(tmp_path)
    ]
    whole, parts = score(predictions, DECISION), score_in_parts(predictions, DECISION, 200)
    assert parts.roc_auc == pytest.approx(whole.roc_auc, abs=1e-5)


def without_onsets(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [replace(p, track=replace(p.track, reentry_phase=np.zeros(len(p.track), np.int8))) for p in predictions]


def test_a_figure_without_cases_is_none_in_parts_too(tmp_path: Path) -> None:
    predictions = without_onsets(noisy(tmp_path))
    parts = score_in_parts(predictions, DECISION, 1)
    assert np.isnan([parts.roc_auc, parts.detection_delay, parts.recall]).all()
    assert_close(parts.as_dict(), score(predictions, DECISION).as_dict())


@pytest.mark.parametrize("part_steps", [1, 300])
def test_reliability_in_parts_is_that_of_the_whole(tmp_path: Path, part_steps: int) -> None:
    predictions = [replace(p, probability=p.probability * np.float32(0.5)) for p in noisy(tmp_path)]  # empty bins
    whole, parts = reliability(predictions), reliability_in_parts(predictions, part_steps)
    np.testing.assert_array_equal(parts.steps, whole.steps)
    assert 0 in whole.steps
    for name in ("predicted", "observed"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    assert parts.error == pytest.approx(whole.error)


def test_stored_predictions_are_those_made(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    made = [
        Prediction(track=s.track, probability=np.random.default_rng(i).random(len(s.phase)))
        for i, s in enumerate(samples)
    ]
    by_id = {prediction.track.track_id: prediction for prediction in made}
    stored = StoredPredictions.write(tmp_path / "x", lambda some: [by_id[s.track.track_id] for s in some], samples)
    assert len(stored) == len(made)
    for one, other in zip([*stored, stored[-1], *stored[2:4]], [*made, made[-1], *made[2:4]], strict=True):
        assert one.track is other.track
        np.testing.assert_array_equal(one.probability, other.probability)
    with pytest.raises(IndexError):
        stored[len(made)]
