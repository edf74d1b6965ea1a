"""Triton model `track_monitor`: refuses invalid tracks of the graph `reentry_track`, and logs and counts its answers.

Shapes: B tracks, T steps of the request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from reentry import schema
from reentry.triton.checks import require_scored
from reentry.triton.prediction_log import PredictionLog
from reentry.triton.telemetry import REFUSED, REQUESTS, Registry, TrackMetrics


class TritonPythonModel:
    """Checks, logs and counts the answers of `reentry_track`, and passes the onset step on."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the prediction log and the metrics."""
        self.log = PredictionLog.from_environment()
        network = Path(args["model_repository"]).parent / schema.REENTRY_LSTM.name
        registry = Registry(pb_utils)
        self.refused = registry.series(REQUESTS, REFUSED)
        self.metrics = TrackMetrics(registry, network=network, model_instance=args["model_instance_name"])

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request with its onset steps, or refuse it."""
        responses = []
        for request in requests:
            try:
                responses.append(pb_utils.InferenceResponse([self._checked(request)]))
            except ValueError as error:
                invalid = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=invalid))
                self.refused.increment(1)
        self.log.write()
        return responses

    def _checked(self, request: pb_utils.InferenceRequest) -> pb_utils.Tensor:
        tensors = {tensor.name(): tensor for tensor in request.inputs()}

        def value(tensor: schema.Tensor) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = tensors[tensor.name].as_numpy()
            return values

        phase = value(schema.PHASE)
        track_length, onset_step = value(schema.TRACK_LENGTH)[:, 0], value(schema.ONSET_STEP)[:, 0]
        onset_timestamp, model_version = value(schema.ONSET_TIMESTAMP)[:, 0], value(schema.MODEL_VERSION)[:, 0]
        require_scored(phase, track_length, onset_step, onset_timestamp, model_version)
        self.log.add(
            track_id=value(schema.TRACK_ID_TENSOR)[:, 0],
            rows=track_length,
            onset_step=onset_step,
            onset_timestamp=onset_timestamp,
            model_version=model_version,
        )
        self.metrics.add(
            phase=phase, track_length=track_length, onset_step=onset_step, model_version=int(model_version[0])
        )
        return tensors[schema.ONSET_STEP.name]

    def finalize(self) -> None:
        """Close the prediction log, and send the last metrics."""
        self.log.close()
        self.metrics.close()
