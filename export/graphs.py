"""PyTorch -> ONNX: from features to probabilities, normalisation included, over whole tracks and over one step.

Shapes: B tracks, T steps, F features, H hidden units, L layers.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import onnx
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from reentry.errors import ExportError
from reentry.schema import FEATURES, REENTRY_LSTM, REENTRY_STEP, SCHEMA_VERSION
from training.checkpoint import Checkpoint
from training.evaluation.metrics import without_nan
from training.models.networks import ReentryLSTM, ReentryNetwork

OPSET: Final = 17
"""LayerNormalization came with it; every Triton since 22.07 and TensorRT since 8.6 reads it."""

BATCH_AXIS: Final = "batch"
TIME_AXIS: Final = "time"

_STATED: Final[tuple[str, ...]] = ("onset_rmse", "onset_worst", "f1")
"""Figures of the checkpoint that a graph's metadata state; all are in the manifest."""

Precision = Literal["fp32", "fp16"]


class ServedModel(nn.Module):
    """What the graph over whole tracks computes: probabilities, and the version it was installed as.

    The version is a constant of the graph, so that an answer says for certain which version gave it, also while a
    server changes from one to the next.
    """

    version: Tensor

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.model = _exportable(model)
        self.register_buffer("version", torch.tensor(version, dtype=torch.int64))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) -> (B, T) and (B, 1)."""
        config, weight = self.model.config, self.model.head.weight
        # Explicit, or the exporter would fix the batch size of the example into the initial state.
        start = torch.zeros(config.layers, features.shape[0], config.hidden, dtype=weight.dtype)
        logits, _ = self.model(features, (start, start))
        return torch.sigmoid(logits), _versions(features[:, 0, :1], self.version)


class StepModel(nn.Module):
    """What the graph over one step computes. Its state is batch first, as Triton carries the state of a sequence."""

    version: Tensor

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.model = _exportable(model)
        self.register_buffer("version", torch.tensor(version, dtype=torch.int64))

    def forward(self, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, F) and the state, (B, L, H) twice -> (B, 1), the next state, and (B, 1)."""
        dtype = self.model.head.weight.dtype
        # What an LSTM takes is (L, B, H).
        state = (hidden.transpose(0, 1).contiguous().to(dtype), cell.transpose(0, 1).contiguous().to(dtype))
        logits, (next_hidden, next_cell) = self.model(features.unsqueeze(1), state)
        return (
            torch.sigmoid(logits),
            next_hidden.transpose(0, 1).float(),
            next_cell.transpose(0, 1).float(),
            _versions(features[:, :1], self.version),
        )


def whole_graph(checkpoint: Checkpoint, version: int, precision: Precision = "fp32") -> onnx.ModelProto:
    """Export the network of a checkpoint as version `version` of `reentry_lstm`.

    Returns:
        The checked graph; names and axes as `schema.REENTRY_LSTM`, metadata says where it comes from.
    """
    example = torch.zeros(2, 3, len(FEATURES))  # axes of size 1 in the example would be fixed
    network = ServedModel(_in_precision(checkpoint.model, precision), version)
    both = {0: BATCH_AXIS, 1: TIME_AXIS}
    axes = {"features": both, "reentry_probability": both, "model_version": {0: BATCH_AXIS}}
    inputs, outputs = ([tensor.name for tensor in side] for side in (REENTRY_LSTM.inputs, REENTRY_LSTM.outputs))
    return _described(_traced(network, (example,), inputs, outputs, axes), checkpoint, "whole tracks")


def step_graph(checkpoint: Checkpoint, version: int, precision: Precision = "fp32") -> onnx.ModelProto:
    """The same over one step of live tracks, the caller carrying the state; tensors as `schema.REENTRY_STEP`."""
    config = checkpoint.model_config
    state = torch.zeros(2, config.layers, config.hidden)
    example = (torch.zeros(2, len(FEATURES)), state, state)
    network = StepModel(_in_precision(checkpoint.model, precision), version)
    inputs, outputs = ([tensor.name for tensor in side] for side in (REENTRY_STEP.inputs, REENTRY_STEP.outputs))
    axes = {name: {0: BATCH_AXIS} for name in (*inputs, *outputs)}
    return _described(_traced(network, example, inputs, outputs, axes), checkpoint, "one step")


def metadata_of(graph: onnx.ModelProto) -> dict[str, str]:
    """The properties that a graph states of itself."""
    return {entry.key: entry.value for entry in graph.metadata_props}


def strip(model: onnx.ModelProto) -> None:
    """Take out what no runtime needs: in a network of 16 units that is half of the file.

    What remains of names is those of inputs and outputs; shapes between them are inferred anew where a graph is loaded.
    """
    graph = model.graph
    graph.ClearField("value_info")
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):  # the exporter's call stack among them
            node.ClearField(field)
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, f"t{len(names)}") for name in tensors]
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"t{len(names)}")
    domains = {node.domain for node in graph.node}
    used = [opset for opset in model.opset_import if opset.domain in domains]
    model.ClearField("opset_import")
    model.opset_import.extend(used)


def _versions(row: Tensor, version: Tensor) -> Tensor:
    """(B, 1) of int64, in every exporter's eyes."""
    return torch.zeros_like(row, dtype=torch.int64) + version


def _exportable(model: ReentryNetwork) -> ReentryLSTM:
    if not isinstance(model, ReentryLSTM):
        raise ExportError(
            "only an LSTM can be exported", expected="kind lstm", got=f"kind {model.config.kind}", fix="train an LSTM"
        )
    return model


def _in_precision(model: ReentryNetwork, precision: Precision) -> ReentryLSTM:
    """The network, in half precision from the LSTM on: a feature of up to 1e5 m is too large for it, and normalised."""
    model = _exportable(model)
    if precision == "fp32":
        return model
    halved = copy.deepcopy(model)
    for layer in (halved.lstm, halved.norm, halved.head):
        layer.half()
    return halved


def _traced(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "model.onnx"
        # torch.export specialises an LSTM's time axis to the example's length (PyTorch 2.13), so the older exporter
        # it is. It warns that it is the older one, and of axes it might fix: those the gate checks.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            example,
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
        )
        return onnx.load(path)


def _described(traced: onnx.ModelProto, checkpoint: Checkpoint, over: str) -> onnx.ModelProto:
    """Fold what is constant, infer every shape, say where the graph comes from, and check the whole."""
    graph = onnxscript.optimizer.optimize(traced)
    strip(graph)
    config = checkpoint.model_config
    figures = {name: checkpoint.metrics[name] for name in _STATED if name in checkpoint.metrics}
    onnx.helper.set_model_props(
        graph,
        {
            "over": over,
            "schema_version": str(SCHEMA_VERSION),
            "features": ",".join(FEATURES),
            "layers": str(config.layers),
            "hidden": str(config.hidden),
            "data_fingerprint": checkpoint.data_fingerprint,
            "git_revision": checkpoint.git_revision,
            "metrics": json.dumps(without_nan(figures)),
        },
    )
    onnx.checker.check_model(graph, full_check=True)  # with strict shape inference
    return graph
