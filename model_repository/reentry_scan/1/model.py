"""Triton model `reentry_scan`: an adapter for `reentry.triton.live_feed`, which calls the model `scan_step`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from reentry import schema
from reentry.refinement import OrbitPriors
from reentry.triton.feature_demand import FeatureDemand, FeatureUse, NotComputedError
from reentry.triton.feeds import Feeds, RefusalError
from reentry.triton.live_feed import LostFeedError, ScanAnswer
from reentry.triton.live_metrics import LiveMetrics
from reentry.triton.telemetry import Periodic, Registry

_STEP_OUTPUTS = [tensor.name for tensor in schema.SCAN_STEP.outputs]


class TritonPythonModel:
    """Answers the scans of feeds, one at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Set up the feeds and the metrics."""
        idle = json.loads(args["model_config"])["sequence_batching"]["max_sequence_idle_microseconds"]
        network = Path(args["model_repository"]).parent / schema.REENTRY_LSTM.name
        self.feature_use = FeatureUse(network)
        demand = FeatureDemand(network)
        demand()  # prepares what takes long
        metrics = LiveMetrics(Registry(pb_utils), model_instance=args["model_instance_name"])
        self.feeds = Feeds(
            self._network,
            demand,
            idle=int(idle) / 1e6,
            metrics=metrics,
            prior_of=OrbitPriors(network).of,
        )
        self.periodic = Periodic(self.feeds.flush)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer the scan of each request, or refuse it."""
        return [self._answered(request) for request in requests]

    def _answered(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        track_id, measurements = (
            pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy() for tensor in schema.REENTRY_SCAN.inputs
        )
        try:
            answer, version = self.feeds.scan(request.correlation_id(), request.flags(), track_id, measurements)
        except RefusalError as refusal:
            error = pb_utils.TritonError(str(refusal), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return _response(answer, version)

    def _network(
        self, features: npt.NDArray[np.float32], state: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int]:
        """Run `scan_step`; see `live_feed.Network`."""
        inputs = [
            pb_utils.Tensor(tensor.name, values)
            for tensor, values in zip(schema.SCAN_STEP.inputs, (features, state), strict=True)
        ]
        response = pb_utils.InferenceRequest(
            model_name=schema.SCAN_STEP.name, requested_output_names=_STEP_OUTPUTS, inputs=inputs
        ).exec()
        if response.has_error():
            raise LostFeedError(f"{schema.SCAN_STEP.name} failed: {response.error().message()}")
        # The memory of a tensor is only valid as long as the response.
        probability, after, version = (
            np.array(pb_utils.get_output_tensor_by_name(response, name).as_numpy()) for name in _STEP_OUTPUTS
        )
        number = int(version[0, 0])
        try:
            self.feature_use.require_computed(features[:, None], number)
        except NotComputedError as error:
            raise LostFeedError(str(error)) from error
        return probability, after, number

    def finalize(self) -> None:
        """Send the last metrics."""
        self.periodic.close()


def _response(answer: ScanAnswer, version: int) -> pb_utils.InferenceResponse:
    tensors = [pb_utils.Tensor(name, getattr(answer, name)) for name in ScanAnswer.__dataclass_fields__]
    tensors.append(pb_utils.Tensor(schema.MODEL_VERSION.name, np.array([version])))
    return pb_utils.InferenceResponse(tensors)
