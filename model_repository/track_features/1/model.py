"""Triton model `track_features`: an adapter for `reentry.features.track`.

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from reentry.features.track import track_features
from reentry.padding import bucket_length, pad_steps
from reentry.schema import FEATURES_TENSOR, MEASUREMENTS, REENTRY_LSTM, STARTED_AT, TRACK_LENGTH
from reentry.triton.checks import require_features, require_measurements
from reentry.triton.feature_demand import FeatureDemand, mark_not_computed
from reentry.triton.telemetry import REFUSED, REQUESTS, Registry


class TritonPythonModel:
    """Computes the features of whole tracks, padded to a bucket length."""

    def initialize(self, args: dict[str, str]) -> None:
        """Set up the metrics, and the choice of the features to compute."""
        self.feature_demand = FeatureDemand(Path(args["model_repository"]).parent / REENTRY_LSTM.name)
        self.feature_demand()  # prepares what takes long
        self.registry = Registry(pb_utils)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request, (B, T, M) -> (B, bucket length, F). Requests of equal T share one numpy computation."""
        started_at = time.monotonic()
        answers: dict[int, pb_utils.InferenceResponse] = {}
        by_length = defaultdict(list)
        for index, request in enumerate(requests):
            tracks = pb_utils.get_input_tensor_by_name(request, MEASUREMENTS.name).as_numpy()
            track_length = pb_utils.get_input_tensor_by_name(request, TRACK_LENGTH.name).as_numpy()[:, 0]
            try:
                require_measurements(tracks, track_length)
            except ValueError as error:
                answers[index] = _refusal(error)
            else:
                by_length[tracks.shape[1]].append((index, tracks))
        groups = self.feature_demand()
        for length, group in by_length.items():
            with np.errstate(all="ignore"):  # require_features rejects the results
                features = track_features(np.concatenate([tracks for _, tracks in group]), groups=groups)
            features = pad_steps(features, bucket_length(length))
            borders = np.cumsum([len(tracks) for _, tracks in group])[:-1]
            for (index, _), computed in zip(group, np.split(features, borders), strict=True):
                answers[index] = _answer(computed, started_at, groups=groups)
        refused = sum(answer.has_error() for answer in answers.values())
        if refused:
            self.registry.series(REQUESTS, REFUSED).increment(refused)
        return [answers[index] for index in range(len(requests))]


def _answer(
    features: npt.NDArray[np.float32], started_at: float, *, groups: frozenset[str]
) -> pb_utils.InferenceResponse:
    try:
        require_features(features)
    except ValueError as error:
        return _refusal(error)
    mark_not_computed(features, groups)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(FEATURES_TENSOR.name, features),
            pb_utils.Tensor(STARTED_AT.name, np.full((len(features), 1), started_at)),
        ]
    )


def _refusal(error: ValueError) -> pb_utils.InferenceResponse:
    """Response with the error INVALID_ARGUMENT for one request of a batch."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
