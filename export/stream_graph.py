"""Exports the graph of a live track: one measurement and the state after the earlier ones -> answer and next state.

Triton keeps the state of each track between its requests (implicit state). It is one tensor of a fixed size, so that
the configuration of the model does not depend on the network. All zeros stand for a track without a measurement.

A measurement does not change the state if it is invalid, older than the latest one, or a repetition of a recent one.

Shapes: B tracks, M measurement columns, R rows of the window, L layers, H hidden units.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from export.graphs import BATCH_AXIS, StepLayers, exported
from reentry.arrays import converted, namespace
from reentry.decision import next_phase
from reentry.errors import ExportError
from reentry.features.track import ROBUST_STATE, SIMPLE_STATE, FeatureState, next_features, window_rows
from reentry.schema import (
    FEATURES,
    INVALID,
    MEASUREMENT_COLUMNS,
    NO_ONSET_TIMESTAMP,
    ONSET_TIMESTAMP,
    PHASE,
    PROBABILITY,
    REENTRY_STREAM,
    STATE_SIZE,
    TIMESTAMP,
)
from reentry.triton.checks import valid_steps
from training.checkpoint import Checkpoint
from training.models.networks import ReentryNetwork

_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)


class _State(NamedTuple):
    """Parts of the state in their order in the tensor, each flattened to (B, size)."""

    steps: Tensor
    """Number of measurements that changed the state."""
    probability: Tensor
    phase: Tensor
    onset: Tensor
    """1 after the onset, else 0."""
    onset_timestamp: Tensor
    simple: Tensor
    robust: Tensor
    hidden: Tensor
    cell: Tensor
    window: Tensor


class StreamModel(nn.Module):
    """The graph of a live track."""

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.names = [FEATURES[index] for index in model.chosen.tolist()]
        self.share_names = [FEATURES[index] for index in model.shares.tolist()]
        self.layers = StepLayers(model, version)
        self.rows = window_rows(self.names)
        units = model.config.layers * model.config.hidden
        # In the order of `_State`.
        self.sizes = [1, 1, 1, 1, 1, SIMPLE_STATE, ROBUST_STATE, units, units, self.rows * len(MEASUREMENT_COLUMNS)]

    @property
    def size(self) -> int:
        """Numbers of the state that the network needs."""
        return sum(self.sizes)

    def forward(self, measurement: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Measurement (B, M) and state (B, N), float64 -> the outputs of `schema.REENTRY_STREAM`, next state last."""
        xp = namespace(measurement)
        old = _State(*torch.split(state[:, : self.size], self.sizes, dim=1))
        window = old.window.reshape(-1, self.rows, len(MEASUREMENT_COLUMNS))
        columns = measurement.T[:, :, None]  # (M, B, 1)
        valid = valid_steps(columns, torch.ones(1, 1, dtype=torch.int32))[:, 0]
        known = old.steps[:, 0] > 0.0
        late = measurement[:, _TIME] < window[:, -1, _TIME]
        repeated = xp.any(xp.all(window == measurement[:, None, :], axis=2), axis=1)
        fresh = ~(known & (late | repeated))

        finite = xp.where(valid[:, None], measurement, 0.0)
        before = FeatureState(old.steps[:, 0], window, old.simple, old.robust)
        features, after = next_features(finite, before, [*self.names, *self.share_names])
        largest = torch.finfo(torch.float32).max
        for feature in features.values():
            valid = valid & (xp.abs(feature) <= largest)
        inputs = {name: converted(xp.where(valid, x, 0.0), "float32") for name, x in features.items()}
        probability, hidden, cell, version = self.layers(
            [inputs[name] for name in self.names], [inputs[name] for name in self.share_names], old.hidden, old.cell
        )
        phase = next_phase(probability, old.phase)
        begins = (phase > 0) & (old.onset == 0.0)
        moves = (valid & fresh)[:, None]
        new = _State(
            steps=after.steps[:, None],
            probability=probability.double(),
            phase=phase,
            onset=xp.where(begins, 1.0, old.onset),
            onset_timestamp=xp.where(begins, measurement[:, _TIME : _TIME + 1], old.onset_timestamp),
            simple=after.simple,
            robust=after.robust,
            hidden=hidden.double(),
            cell=cell.double(),
            window=after.window.flatten(1),
        )
        kept = xp.where(moves, torch.cat(new, dim=1), state[:, : self.size])
        answer = _State(*torch.split(kept, self.sizes, dim=1))
        # A late or repeated measurement gets the answer of the latest one, and an invalid one gets no number.
        answered = valid[:, None]
        timestamp = xp.where(answer.onset > 0.0, answer.onset_timestamp, NO_ONSET_TIMESTAMP)
        return (
            xp.where(answered, converted(answer.probability, "float32"), INVALID[PROBABILITY.name]),
            converted(xp.where(answered, answer.phase, float(INVALID[PHASE.name])), "uint8"),
            converted(moves & begins, "uint8"),
            xp.where(answered, timestamp, INVALID[ONSET_TIMESTAMP.name]),
            converted(moves, "uint8"),
            version,
            torch.cat([kept, state[:, self.size :]], dim=1),
        )


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
