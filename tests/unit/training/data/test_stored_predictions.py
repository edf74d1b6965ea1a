"""Predictions that are stored on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training_data import short_samples
from training.data.stored import StoredPredictions
from training.evaluation.metrics import Prediction


def test_stored_predictions_match_the_originals_exactly(tmp_path: Path) -> None:
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
