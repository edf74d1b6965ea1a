"""Predictions of a trained network for whole tracks, without Lightning, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.data.samples import Sample
from training.evaluation.metrics import Prediction
from training.models.networks import ReentryNetwork


@torch.no_grad()
def predict(model: ReentryNetwork, samples: Sequence[Sample]) -> list[Prediction]:
    """Predict whole tracks one after the other with a network in evaluation mode."""
    return [
        Prediction(track=sample.track, probability=torch.sigmoid(model(sample.features[None])[0][0]).numpy())
        for sample in samples
    ]
