"""What a graph says of itself, held against `reentry.schema`: names, axes, types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from export.graphs import BATCH_AXIS, TIME_AXIS
from reentry import schema
from reentry.errors import ExportError
from reentry.schema import FEATURES, REENTRY_LSTM, REENTRY_STEP, Model
from training.config import ModelConfig

_ONNX_TYPES = {"FP32": onnx.TensorProto.FLOAT, "INT64": onnx.TensorProto.INT64}

Axes = Mapping[str, list[str | int]]


def check_signature(whole: Path, step: Path, config: ModelConfig) -> None:
    """Check both graphs of a format of ONNX.

    Raises:
        ExportError: which check failed, where, what was expected and found.
    """
    both: list[str | int] = [BATCH_AXIS, TIME_AXIS]
    _check(
        onnx.load(whole),
        REENTRY_LSTM,
        {
            schema.FEATURES_TENSOR.name: [*both, len(FEATURES)],
            schema.PROBABILITY.name: both,
            schema.MODEL_VERSION.name: [BATCH_AXIS, 1],
        },
    )
    state: list[str | int] = [BATCH_AXIS, config.layers, config.hidden]
    states = (schema.HIDDEN_STATE, schema.CELL_STATE, schema.NEXT_HIDDEN_STATE, schema.NEXT_CELL_STATE)
    _check(
        onnx.load(step),
        REENTRY_STEP,
        {
            schema.STEP_FEATURES.name: [BATCH_AXIS, len(FEATURES)],
            schema.STEP_PROBABILITY.name: [BATCH_AXIS, 1],
            schema.MODEL_VERSION.name: [BATCH_AXIS, 1],
            **dict.fromkeys((tensor.name for tensor in states), state),
        },
    )


def _check(graph: onnx.ModelProto, model: Model, axes: Axes) -> None:
    sides = (("inputs", model.inputs, graph.graph.input), ("outputs", model.outputs, graph.graph.output))
    for side, declared, found in sides:
        expect("names", f"{model.name}, {side}", [tensor.name for tensor in declared], [value.name for value in found])
    for _, declared, found in sides:
        for tensor, value in zip(declared, found, strict=True):
            shape = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            expect("axes", f"{model.name}, {tensor.name}", axes[tensor.name], shape)
    for _, declared, found in sides:
        for tensor, value in zip(declared, found, strict=True):
            element = value.type.tensor_type.elem_type
            expect("types", f"{model.name}, {tensor.name}", _ONNX_TYPES[tensor.dtype], element)


def expect(check: str, where: str, expected: object, got: object) -> None:
    """Refuse where two things differ.

    Raises:
        ExportError: they do.
    """
    if expected != got:
        raise ExportError(f"fails the check of {check}", where=where, expected=str(expected), got=str(got))
