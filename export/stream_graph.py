"""Exports the graph of a live track: one measurement and the state after the earlier ones -> answer and next state.

Triton keeps the state of each track between its requests (implicit state). It is one tensor of a fixed size, so that
the configuration of the model does not depend on the network. All zeros stand for a track without a measurement.

A measurement does not change the state if it is invalid, older than the latest one, or a repetition of a recent one.

Shapes: B tracks, M measurement columns, N numbers of the state.
"""

from __future__ import annotations

import math

import onnx
import torch
from torch import Tensor, nn

from export.graphs import BATCH_AXIS, StepLayers, exported
from reentry import live_tracks
from reentry.arrays import converted, namespace
from reentry.errors import ExportError
from reentry.features.history import LiveState, LiveTracks
from reentry.schema import (
    FEATURES,
    INVALID,
    MEASUREMENT_COLUMNS,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    REENTRY_STREAM,
    STATE_SIZE,
)
from training.checkpoint import Checkpoint
from training.models.networks import ReentryNetwork


class StreamModel(nn.Module):
    """The graph of a live track."""

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.chosen, self.shares = (
            [FEATURES[index] for index in indices.tolist()] for indices in (model.chosen, model.shares)
        )
        self.layers = StepLayers(model, version)
        self.units = model.config.layers * model.config.hidden
        start = self._step(torch.zeros(len(MEASUREMENT_COLUMNS), 1, dtype=torch.float64), LiveTracks(None, None))[1]
        self.kept = [part.shape[1:] for part in start.kept]
        self.recent = [(*part.shape[:-2], part.shape[-1]) for part in start.recent]

    @property
    def size(self) -> int:
        """Numbers of the state that the network needs. The first one is 1 after the first measurement."""
        return 1 + sum(map(math.prod, [*self.kept, *self.recent]))

    def forward(self, measurement: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Measurement (B, M) and state (B, N), float64 -> the outputs of `schema.REENTRY_STREAM`, next state last."""
        xp = namespace(measurement)
        columns = measurement.T  # (M, B)
        first = state[:, 0] == 0.0
        before = self._parts(state)
        valid = live_tracks.is_valid(columns)
        moves = valid & (first | live_tracks.is_fresh(columns, before))
        (finite, begins, version), after = self._step(xp.where(valid, columns, 0.0), LiveTracks(before, first))
        valid, moves = valid & finite, moves & finite
        flat = torch.cat([torch.ones_like(state[:, :1]), *self._flat(after)], dim=1)
        kept = xp.where(moves[:, None], flat, state[:, : self.size])
        # A late or repeated measurement gets the answer of the latest one, and an invalid one gets no number.
        old, new = live_tracks.answer_of(before), live_tracks.answer_of(after)
        probability, phase, onset_timestamp = (xp.where(moves[:, None], y, x) for x, y in zip(old, new, strict=True))
        answered = valid[:, None]
        return (
            xp.where(answered, converted(probability, "float32"), INVALID[PROBABILITY.name]),
            converted(xp.where(answered, phase, float(INVALID[PHASE.name])), "uint8"),
            converted((moves & begins)[:, None], "uint8"),
            xp.where(answered, onset_timestamp, INVALID[ONSET_TIMESTAMP.name]),
            converted(moves[:, None], "uint8"),
            version,
            torch.cat([kept, state[:, self.size :]], dim=1),
        )

    def _step(self, columns: Tensor, history: LiveTracks) -> tuple[tuple[Tensor, Tensor, Tensor], LiveState]:
        """Advance tracks: (M, B) -> whether the features are finite, whether reentry begins, version, and the state."""
        versions: list[Tensor] = []

        def network(features: dict[str, Tensor]) -> Tensor:
            start = torch.zeros(1, self.units, dtype=torch.float64)
            (hidden, cell), keep = history.carried([start, start])
            outputs: tuple[Tensor, ...] = self.layers(
                [features[name] for name in self.chosen], [features[name] for name in self.shares], hidden, cell
            )
            probability, hidden, cell, version = outputs
            keep([hidden.double(), cell.double()])
            versions.append(version)
            return probability

        step = live_tracks.step(columns, history, [*self.chosen, *self.shares], network)
        return (step.finite, step.begins, versions[0]), history.after

    def _parts(self, state: Tensor) -> LiveState:
        """Split the state, (B, N), into its parts."""
        shapes = [*self.kept, *self.recent]
        parts = torch.split(state[:, 1 : self.size], [math.prod(shape) for shape in shapes], dim=1)
        split = [
            part if len(shape) == 1 else part.reshape(-1, *shape).transpose(0, 1)
            for part, shape in zip(parts, shapes, strict=True)
        ]
        return LiveState(split[: len(self.kept)], split[len(self.kept) :])

    @staticmethod
    def _flat(state: LiveState) -> list[Tensor]:
        """Reverse `_parts`, as parts of (B, size) each."""
        parts: list[Tensor] = [*state.kept, *state.recent]
        return [part if part.ndim == 2 else part.transpose(0, 1).flatten(1) for part in parts]


def stream_graph(checkpoint: Checkpoint, version: int) -> onnx.ModelProto:
    """Export the graph of a live track, with the tensors of `schema.REENTRY_STREAM`.

    Raises:
        ExportError: the network is not an LSTM, or its state does not fit into `schema.STATE_SIZE` numbers.
    """
    model = StreamModel(checkpoint.model, version)
    if model.size > STATE_SIZE:
        raise ExportError(
            "the state of a live track is too large for the network to be served as a stream",
            expected=f"at most {STATE_SIZE} numbers",
            got=f"{model.size} with {checkpoint.model_config.layers} layers of {checkpoint.model_config.hidden} units",
            fix="train a smaller network",
        )
    example = (torch.zeros(2, len(MEASUREMENT_COLUMNS), dtype=torch.float64), torch.zeros(2, STATE_SIZE).double())
    axes = {tensor.name: {0: BATCH_AXIS} for tensor in (*REENTRY_STREAM.inputs, *REENTRY_STREAM.outputs)}
    return exported(model, example, REENTRY_STREAM, axes, checkpoint, "one measurement")
