"""Exports the graph from measurements to onsets: features, network and decision, traced from the code of the project.

Shapes: B tracks, T steps, M measurement columns, I features of the network.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from export.graphs import BATCH_AXIS, TIME_AXIS, ServedModel, exported
from reentry.arrays import at_steps, converted, namespace, up_to
from reentry.decision import decide_tracks
from reentry.features.track import named_features
from reentry.schema import (
    FEATURES,
    INVALID,
    MEASUREMENT_COLUMNS,
    ONSET_STEP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    REENTRY_TRACK,
)
from reentry.triton.checks import valid_steps
from training.checkpoint import Checkpoint
from training.models.networks import ReentryNetwork


class TrackModel(nn.Module):
    """The graph from measurements to onsets."""

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.chosen, self.shares = (
            [FEATURES[index] for index in indices.tolist()] for indices in (model.chosen, model.shares)
        )
        self.served = ServedModel(model, version)

    def forward(self, track_length: Tensor, measurements: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Lengths (B, 1) int32 and measurements (B, T, M) float64 -> the outputs of `schema.REENTRY_TRACK`."""
        xp = namespace(measurements)
        tracks, steps, width = measurements.shape
        # ONNX Runtime is slow at operations along a short last axis. It would move them back there, without a reshape.
        columns = xp.reshape(xp.permute_dims(measurements, (2, 0, 1)), (width, tracks, steps))
        valid = valid_steps(columns, track_length)
        finite = [xp.where(valid, columns[i], 0.0) for i in range(width)]
        features = named_features(finite, [*self.chosen, *self.shares])
        # The features must be finite, because an LSTM returns plausible numbers for NaN.
        largest = torch.finfo(torch.float32).max
        for feature in features.values():
            valid = valid & (xp.abs(feature) <= largest)
        valid = up_to(valid)
        inputs = {name: converted(xp.where(valid, x, 0.0), "float32") for name, x in features.items()}
        probability, version = self.served.from_columns(
            [inputs[name] for name in self.chosen], [inputs[name] for name in self.shares]
        )
        probability = xp.where(valid, probability, INVALID[PROBABILITY.name])
        phase, step, timestamp = decide_tracks(probability, columns[0], track_length[:, 0])
        last = xp.minimum(xp.maximum(track_length, 1), measurements.shape[1]) - 1
        whole = at_steps(valid, converted(last, "int64"))[:, 0]
        return (
            probability,
            converted(xp.where(valid, converted(phase, "int32"), INVALID[PHASE.name]), "uint8"),
            converted(xp.where(whole, step, INVALID[ONSET_STEP.name]), "int32")[:, None],
            xp.where(whole, timestamp, INVALID[ONSET_TIMESTAMP.name])[:, None],
            version,
        )


def track_graph(checkpoint: Checkpoint, version: int) -> onnx.ModelProto:
    """Export the graph from measurements to onsets, with the tensors of `schema.REENTRY_TRACK`.

    Only the features that the network uses are in the graph.

    Raises:
        ExportError: the network is not an LSTM.
    """
    lengths = torch.tensor([[3], [2]], dtype=torch.int32)
    example = (lengths, torch.zeros(2, 3, len(MEASUREMENT_COLUMNS), dtype=torch.float64))
    axes = {tensor.name: {0: BATCH_AXIS} for tensor in (*REENTRY_TRACK.inputs, *REENTRY_TRACK.outputs)}
    for tensor in (REENTRY_TRACK.inputs[1], PROBABILITY, PHASE):
        axes[tensor.name][1] = TIME_AXIS
    return exported(TrackModel(checkpoint.model, version), example, REENTRY_TRACK, axes, checkpoint, "measurements")
