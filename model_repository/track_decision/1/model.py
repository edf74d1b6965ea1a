"""Triton model `track_decision`: an adapter for `reentry.decision` and `reentry.triton`.

Shapes: B tracks, T steps of the request, K >= T steps with padding, M measurement columns.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from reentry import schema
from reentry.decision import NO_ONSET, DecisionConfig, decide_tracks
from reentry.refinement import OrbitPriors, RefinedOnset, refined_onset
from reentry.training_range import TrainingRanges, to_json
from reentry.triton.checks import require_decidable, require_lengths, require_timestamps
from reentry.triton.feature_demand import FeatureUse, NotComputedError
from reentry.triton.prediction_log import PredictionLog
from reentry.triton.telemetry import REFUSED, REQUESTS, Registry, TrackMetrics


class TritonPythonModel:
    """Decides phase and onset of whole tracks."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the thresholds from the model's parameters, or use their defaults; open the log and the metrics."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.config = DecisionConfig(**{name: float(value["string_value"]) for name, value in parameters.items()})
        self.log = PredictionLog.from_environment()
        network = Path(args["model_repository"]).parent / schema.REENTRY_LSTM.name
        self.feature_use = FeatureUse(network)
        self.ranges = TrainingRanges(network)
        self.priors = OrbitPriors(network)
        registry = Registry(pb_utils)
        self.refused = registry.series(REQUESTS, REFUSED)
        self.metrics = TrackMetrics(registry, network=network, model_instance=args["model_instance_name"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request, with probability and phase truncated from K to T steps."""
        responses = []
        for request in requests:
            try:
                responses.append(pb_utils.InferenceResponse(self._answer(request)))
            except ValueError as error:
                invalid = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=invalid))
                self.refused.increment(1)
            except NotComputedError as error:
                unavailable = pb_utils.TritonError(str(error), pb_utils.TritonError.UNAVAILABLE)
                responses.append(pb_utils.InferenceResponse(error=unavailable))
        self.log.write()
        return responses

    def _answer(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        def value(tensor: schema.Tensor) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            return values

        track_length = value(schema.TRACK_LENGTH)[:, 0]
        measurements = value(schema.MEASUREMENTS)
        timestamp = measurements[:, :, schema.MEASUREMENT_COLUMNS.index(schema.TIMESTAMP.name)]
        steps = timestamp.shape[1]
        probability, features = value(schema.PROBABILITY), value(schema.FEATURES_TENSOR)
        model_version, started_at = value(schema.MODEL_VERSION), value(schema.STARTED_AT)
        require_lengths(track_length, steps)
        require_timestamps(timestamp, track_length)
        version = int(model_version[0, 0])
        self.feature_use.require_computed(features, version)  # the cause, if the probabilities are NaN
        require_decidable(
            probability, features, model_version[:, 0], started_at[:, 0], steps=steps, now=time.monotonic()
        )
        probability = probability[:, :steps]
        phase, onset_step, onset_timestamp = decide_tracks(probability, timestamp, track_length, self.config)
        refinement = self._refined(features, timestamp, track_length, onset_step, version)
        self.log.add(
            track_id=value(schema.TRACK_ID_TENSOR)[:, 0],
            rows=track_length,
            onset_step=onset_step,
            onset_timestamp=onset_timestamp,
            model_version=model_version[:, 0],
            refinement=refinement,
            started_at=started_at[:, 0],
        )
        self.metrics.add(
            features=features,
            phase=phase,
            track_length=track_length,
            onset_step=onset_step,
            model_version=version,
            seconds=time.monotonic() - float(started_at[0, 0]),
        )
        unlike_training = np.full((len(track_length), 1), "", dtype=np.object_)
        training_range = self.ranges.of(version)
        if training_range is not None:
            found = training_range.findings(measurements, features, track_length)
            unlike_training[:, 0] = [to_json(findings) for findings in found]
        refined = np.array([(schema.NOT_REFINED,) * 3 if found is None else found for found in refinement])
        return [
            pb_utils.Tensor(schema.PROBABILITY.name, np.ascontiguousarray(probability)),
            pb_utils.Tensor(schema.PHASE.name, phase),
            pb_utils.Tensor(schema.ONSET_STEP.name, onset_step[:, None]),
            pb_utils.Tensor(schema.ONSET_TIMESTAMP.name, onset_timestamp[:, None]),
            pb_utils.Tensor(schema.REFINED_ONSET.name, np.ascontiguousarray(refined[:, 0:1])),
            pb_utils.Tensor(schema.REFINED_DEVIATION.name, np.ascontiguousarray(refined[:, 1:2])),
            pb_utils.Tensor(schema.HINDSIGHT.name, np.ascontiguousarray(refined[:, 2:3])),
            pb_utils.Tensor(schema.MODEL_VERSION.name, model_version),
            pb_utils.Tensor(schema.UNLIKE_TRAINING.name, unlike_training),
        ]

    def _refined(
        self,
        features: npt.NDArray[np.float32],
        timestamp: npt.NDArray[np.float64],
        track_length: npt.NDArray[np.integer[Any]],
        onset_step: npt.NDArray[np.int32],
        version: int,
    ) -> list[RefinedOnset | None]:
        """Refine the onset of each track; None for a track without an onset, and if the version has no prior."""
        prior = self.priors.of(version)
        if prior is None:
            return [None] * len(track_length)
        return [
            None
            if alarm == NO_ONSET
            else refined_onset(features[track, :steps], timestamp[track, :steps], alarm, prior)
            for track, (steps, alarm) in enumerate(zip(track_length.tolist(), onset_step.tolist(), strict=True))
        ]

    def finalize(self) -> None:
        """Close the prediction log, and send the last metrics."""
        self.log.close()
        self.metrics.close()
