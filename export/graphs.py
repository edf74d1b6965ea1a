"""Exports the network from PyTorch to ONNX: one graph over whole tracks and one over a single step.

Both compute probabilities from raw features, with the normalisation inside.

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
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from reentry.errors import ExportError
from reentry.schema import FEATURES, REENTRY_LSTM, REENTRY_STEP, SCHEMA_VERSION, Model
from training.checkpoint import Checkpoint
from training.evaluation.metrics import without_nan
from training.models.networks import ReentryLSTM, ReentryNetwork

OPSET: Final = 17
"""First opset with LayerNormalization. Triton 22.07 and TensorRT 8.6, and all later releases, read it."""

BATCH_AXIS: Final = "batch"
TIME_AXIS: Final = "time"

_STATED_METRICS: Final[tuple[str, ...]] = ("onset_rmse", "onset_worst", "f1")
"""Metrics of the checkpoint in the metadata of a graph. The manifest has all metrics."""

Precision = Literal["fp32", "fp16"]


class _VersionedModel(nn.Module):
    """A network with its version number.

    The version number is a constant of the graph, so every answer names the version that gave it, even while a server
    switches versions.
    """

    version: Tensor

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__()
        self.model = _exportable(model)
        self.register_buffer("version", torch.tensor(version, dtype=torch.int64))


class ServedModel(_VersionedModel):
    """The graph over whole tracks: probabilities, and the version number."""

    def __init__(self, model: ReentryNetwork, version: int) -> None:
        super().__init__(model, version)
        self.lstm = copy.copy(self.model.lstm)  # with the same weights
        self.lstm.batch_first = False  # as the LSTM of ONNX, which saves two transpositions

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) -> probability (B, T) and version (B, 1)."""
        chosen, shares = (features.index_select(-1, x).unbind(-1) for x in (self.model.chosen, self.model.shares))
        return self.from_columns(chosen, shares)

    def from_columns(self, chosen: Sequence[Tensor], shares: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The same from the columns (B, T) that `ReentryNetwork.inputs` takes."""
        config, weight, bias = self.model.config, self.model.head.weight, self.model.head.bias
        x = torch.stack(self.model.inputs(chosen, shares), dim=1).permute(2, 0, 1)  # (T, B, I)
        # Without an explicit initial state the exporter fixes its batch size to that of the example.
        start = torch.zeros(config.layers, x.shape[1], config.hidden, dtype=weight.dtype)
        hidden, _ = self.lstm(x.to(weight.dtype), (start, start))
        logits = (self.model.norm(hidden) @ weight.T).squeeze(-1) + bias[0]  # ONNX Runtime adds slowly to (T, B, 1)
        return torch.sigmoid(self.model.total(logits.T.float(), x.transpose(0, 1))), _versions(
            chosen[0][:, 0].unsqueeze(-1), self.version
        )


class StepModel(_VersionedModel):
    """The graph over one step. The batch axis of its state comes first, as in the sequence state of Triton."""

    def forward(self, features: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (B, F), two states (B, L, H) -> probability (B, 1), two next states (B, L, H), version (B, 1)."""
        dtype = self.model.head.weight.dtype
        # torch.nn.LSTM takes (L, B, H).
        state = (hidden.transpose(0, 1).contiguous().to(dtype), cell.transpose(0, 1).contiguous().to(dtype))
        logits, (next_hidden, next_cell) = self.model(features.unsqueeze(1), state)
        return (
            torch.sigmoid(logits),
            next_hidden.transpose(0, 1).float(),
            next_cell.transpose(0, 1).float(),
            _versions(features[:, :1], self.version),
        )


class StepLayers(_VersionedModel):
    """The network over one step, from single features: part of the graph of a live track."""

    def forward(
        self, chosen: Sequence[Tensor], shares: Sequence[Tensor], hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (B,) each and states (B, L * H) -> probability (B, 1), next states (B, L * H), version (B, 1)."""
        config, dtype = self.model.config, self.model.head.weight.dtype
        inputs = torch.stack(self.model.inputs(chosen, shares), dim=-1)  # (B, I)
        x = inputs.to(dtype)
        hiddens, cells = (torch.split(state.to(dtype), config.hidden, dim=1) for state in (hidden, cell))
        after = []
        for layer in range(config.layers):
            x, next_cell = self._layer(layer, x, hiddens[layer], cells[layer])
            after.append((x, next_cell))
        logits = self.model.head(self.model.norm(x)).float().squeeze(-1)
        logits = self.model.total(logits, inputs).unsqueeze(-1)
        hidden, cell = (torch.cat(states, dim=1).float() for states in zip(*after, strict=True))
        return torch.sigmoid(logits), hidden, cell, _versions(logits, self.version)

    def _layer(self, number: int, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step of a layer of the LSTM: inputs (B, I) and its states (B, H) -> next states.

        A step of many tracks takes a third less time than with the operator LSTM of ONNX Runtime.
        """
        lstm = self.model.lstm
        weight = torch.cat([getattr(lstm, f"weight_{part}_l{number}") for part in ("ih", "hh")], dim=1)
        bias = getattr(lstm, f"bias_ih_l{number}") + getattr(lstm, f"bias_hh_l{number}")
        gates = torch.split(torch.addmm(bias, torch.cat([x, hidden], dim=1), weight.T), self.model.config.hidden, dim=1)
        into, forget, out = (torch.sigmoid(gates[index]) for index in (0, 1, 3))
        cell = forget * cell + into * torch.tanh(gates[2])
        return out * torch.tanh(cell), cell


def whole_graph(checkpoint: Checkpoint, version: int, precision: Precision = "fp32") -> onnx.ModelProto:
    """Export the graph over whole tracks, with the tensors of `schema.REENTRY_LSTM`.

    Returns:
        The checked graph. Its metadata names the network and the training data.

    Raises:
        ExportError: the network is not an LSTM.
    """
    example = torch.zeros(2, 3, len(FEATURES))  # the exporter would fix an axis of size 1
    network = ServedModel(_in_precision(checkpoint.model, precision), version)
    both = {0: BATCH_AXIS, 1: TIME_AXIS}
    axes = {"features": both, "reentry_probability": both, "model_version": {0: BATCH_AXIS}}
    return exported(network, (example,), REENTRY_LSTM, axes, checkpoint, "whole tracks")


def step_graph(checkpoint: Checkpoint, version: int, precision: Precision = "fp32") -> onnx.ModelProto:
    """Export the graph over one step, with the tensors of `schema.REENTRY_STEP`. The caller carries the state.

    Raises:
        ExportError: the network is not an LSTM.
    """
    config = checkpoint.model_config
    state = torch.zeros(2, config.layers, config.hidden)
    example = (torch.zeros(2, len(FEATURES)), state, state)
    network = StepModel(_in_precision(checkpoint.model, precision), version)
    axes = {tensor.name: {0: BATCH_AXIS} for tensor in (*REENTRY_STEP.inputs, *REENTRY_STEP.outputs)}
    return exported(network, example, REENTRY_STEP, axes, checkpoint, "one step")


def metadata_of(graph: onnx.ModelProto) -> dict[str, str]:
    """Metadata properties of a graph."""
    return {entry.key: entry.value for entry in graph.metadata_props}


def strip(model: onnx.ModelProto) -> None:
    """Remove what no runtime needs, which is half of the file for a network of 16 units.

    Only inputs and outputs keep their names. A runtime infers the shapes of inner tensors when it loads the graph.
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


def _simplified(path: Path) -> onnx.ModelProto:
    """Compute what is constant, and compute nothing twice.

    The optimizer's rewriting rules are left out: they take most of a minute for a thousand nodes, and drop the addition
    of any constant below 1e-8, such as the square of the Earth's angular velocity.
    """
    model = ir.load(path)
    onnxscript.optimizer.fold_constants_ir(model)
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
    return ir.to_proto(model)


def _versions(row: Tensor, version: Tensor) -> Tensor:
    """The version number for each track, (B, 1) int64."""
    return torch.zeros_like(row, dtype=torch.int64) + version


def _exportable(model: ReentryNetwork) -> ReentryLSTM:
    if not isinstance(model, ReentryLSTM):
        raise ExportError(
            "only an LSTM can be exported", expected="kind lstm", got=f"kind {model.config.kind}", fix="train an LSTM"
        )
    return model


def _in_precision(model: ReentryNetwork, precision: Precision) -> ReentryLSTM:
    """The network, with LSTM, norm and head in half precision if so requested.

    Normalisation stays in single precision, because a feature of up to 1e5 m exceeds the range of half precision.
    """
    model = _exportable(model)
    if precision == "fp32":
        return model
    halved = copy.deepcopy(model)
    for layer in (halved.lstm, halved.norm, halved.head):
        layer.half()
    return halved


def exported(
    network: nn.Module,
    example: tuple[Tensor, ...],
    tensors: Model,
    axes: dict[str, dict[int, str]],
    checkpoint: Checkpoint,
    over: str,
) -> onnx.ModelProto:
    """Trace a module, fold constants, set the metadata, and check the graph with strict shape inference."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "model.onnx"
        # The newer exporter, torch.export, fixes the time axis of an LSTM to the example's length (PyTorch 2.13). The
        # older one warns that it is deprecated, and that it might fix axes, which the gate checks.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            example,
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in tensors.inputs],
            output_names=[tensor.name for tensor in tensors.outputs],
            dynamic_axes=axes,
        )
        graph = _simplified(path)
    strip(graph)
    config = checkpoint.model_config
    metrics = {name: checkpoint.metrics[name] for name in _STATED_METRICS if name in checkpoint.metrics}
    properties = {
        "over": over,
        "schema_version": str(SCHEMA_VERSION),
        "features": ",".join(FEATURES),
        "layers": str(config.layers),
        "hidden": str(config.hidden),
        "data_fingerprint": checkpoint.data_fingerprint,
        "git_revision": checkpoint.git_revision,
        "metrics": json.dumps(without_nan(metrics)),
    }
    onnx.helper.set_model_props(graph, properties)
    onnx.checker.check_model(graph, full_check=True)
    return graph
