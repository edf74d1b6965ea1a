"""Exports the graph of many live tracks: features and LSTM state of each track -> probability and next state.

Shapes: B tracks, F features, W numbers of the given state, L layers, H hidden units.
"""

from __future__ import annotations

from typing import Final

import onnx
import torch
from torch import Tensor, nn

from export.graphs import BATCH_AXIS, StepLayers, exported
from reentry.schema import FEATURES, NEXT_RECURRENT_STATE, RECURRENT_STATE, SCAN_STEP
from training.checkpoint import Checkpoint
from training.models.networks import ReentryNetwork

WIDTH_AXIS: Final = "width"
"""Axis of the given state, which may be narrower or wider than that of the network."""
SIZE_AXIS: Final = "size"
"""Axis of the next state, which has the size of the network's state."""


class ScanModel(nn.Module):
    """The graph of many live tracks. The state is the hidden state of each layer, then the cell state of each layer."""

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.layers = StepLayers(model, version)
        self.chosen, self.shares = model.chosen.tolist(), model.shares.tolist()
        self.units = model.config.layers * model.config.hidden

    def forward(self, features: Tensor, recurrent_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, F) and state (B, W) -> probability (B, 1), next state (B, 2 * L * H) and version (B, 1)."""
        size = 2 * self.units
        # The first state of a track has any width, so that the caller need not know that of the network.
        missing = torch.zeros(features.shape[0], size)
        extended = torch.cat([recurrent_state, missing], dim=1)
        hidden, cell = torch.split(extended[:, :size], self.units, dim=1)
        columns = features.unbind(-1)
        chosen, shares = ([columns[index] for index in indices] for indices in (self.chosen, self.shares))
        probability, next_hidden, next_cell, version = self.layers(chosen, shares, hidden, cell)
        # The configuration of the model is the same for every network, so the graph must not declare the size of the
        # state. A slice has an unknown size if its end is computed: this one is 2 * L * H.
        after = torch.cat([next_hidden, next_cell], dim=1)[:, : extended.shape[1] - recurrent_state.shape[1]]
        return probability, after, version


def scan_graph(checkpoint: Checkpoint, version: int) -> onnx.ModelProto:
    """Export the graph of many live tracks, with the tensors of `schema.SCAN_STEP`.

    Raises:
        ExportError: the network is not an LSTM.
    """
    example = (torch.zeros(2, len(FEATURES)), torch.zeros(2, 3))  # the exporter would fix an axis of size 1
    axes = {tensor.name: {0: BATCH_AXIS} for tensor in (*SCAN_STEP.inputs, *SCAN_STEP.outputs)}
    axes[RECURRENT_STATE.name][1] = WIDTH_AXIS
    axes[NEXT_RECURRENT_STATE.name][1] = SIZE_AXIS
    return exported(ScanModel(checkpoint.model, version), example, SCAN_STEP, axes, checkpoint, "one scan")
