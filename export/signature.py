"""Checks of an exported format that need no reference: its graphs declare and return the tensors of `reentry.schema`.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from export.graphs import BATCH_AXIS, TIME_AXIS
from export.scan_graph import SIZE_AXIS, WIDTH_AXIS
from export.sessions import Array, Session, no_state
from reentry.errors import ExportError
from reentry.schema import HIDDEN_STATE, NEXT_RECURRENT_STATE, RECURRENT_STATE, Model, Tensor
from training.config import ModelConfig

_ONNX_TYPES: Final = {
    "FP32": onnx.TensorProto.FLOAT,
    "FP64": onnx.TensorProto.DOUBLE,
    "INT32": onnx.TensorProto.INT32,
    "INT64": onnx.TensorProto.INT64,
    "UINT8": onnx.TensorProto.UINT8,
}
_FREE_AXES: Final = {RECURRENT_STATE: WIDTH_AXIS, NEXT_RECURRENT_STATE: SIZE_AXIS}
"""Name of the axis of any size, where it is not `TIME_AXIS`."""


def check_signature(path: Path, model: Model, config: ModelConfig) -> None:
    """Check that an ONNX graph of a version declares the inputs and outputs of a model of `reentry.schema`.

    Raises:
        ExportError: a name, an axis or a type differs.
    """
    graph = onnx.load(path).graph
    sides = (("inputs", model.inputs, graph.input), ("outputs", model.outputs, graph.output))
    for side, declared, found in sides:
        names = [value.name for value in found]
        require_equal("names", f"{model.name}, {side}", [tensor.name for tensor in declared], names)
    pairs = [pair for _, declared, found in sides for pair in zip(declared, found, strict=True)]
    for tensor, value in pairs:
        shape = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        require_equal("axes", f"{model.name}, {tensor.name}", _axes(tensor, config), shape)
    for tensor, value in pairs:
        element = value.type.tensor_type.elem_type
        require_equal("types", f"{model.name}, {tensor.name}", _ONNX_TYPES[tensor.dtype], element)


class CheckedSession:
    """A session whose answers are checked for shapes, version number and finite values.

    Each method takes `where`, the location for error messages, and raises ExportError if the format does not run or a
    check fails.
    """

    def __init__(self, session: Session, config: ModelConfig, version: int) -> None:
        self._session, self._config, self._version = session, config, version
        self.step_limit = session.step_limit

    def whole(self, features: Array, where: str) -> Array:
        """Probabilities over whole tracks, (B, T, F) -> (B, T)."""
        probability, version = self._run(where, self._session.whole, features)
        require_equal("shapes", where, features.shape[:2], probability.shape)
        return self._checked(probability, version, where)

    def whole_unchecked(self, features: Array, where: str) -> Array:
        """Probabilities over whole tracks, without the checks."""
        probability: Array = self._run(where, self._session.whole, features)[0]
        return probability

    def stepped(self, features: Array, where: str) -> Array:
        """Probabilities over single steps with carried state, (B, T, F) -> (B, T)."""
        batch = len(features)
        state = no_state(batch, self._config.layers, self._config.hidden)
        shapes = [values.shape for values in state]
        columns = []
        for step in range(features.shape[1]):
            at = f"{where}, step {step}"
            row = np.ascontiguousarray(features[:, step])
            probability, state, version = self._run(at, self._session.step, row, state)
            require_equal("shapes", f"{at}, probability", (batch, 1), probability.shape)
            require_equal("shapes", f"{at}, state", shapes, [values.shape for values in state])
            columns.append(self._checked(probability, version, at))
        return np.concatenate(columns, axis=1)

    def _run(self, where: str, function: Callable[..., Any], *inputs: Any) -> Any:
        try:
            return function(*inputs)
        except ExportError:
            raise
        except Exception as error:  # the exceptions of the runtimes have no common base class
            raise ExportError(f"the format does not run: {error}", where=where) from error

    def _checked(self, probability: Array, version: Array, where: str) -> Array:
        require_equal("version", where, [[self._version]] * len(probability), version.tolist())
        if not np.isfinite(probability).all():
            raise ExportError("check failed: finite values", where=where)
        return probability


def _axes(tensor: Tensor, config: ModelConfig) -> list[str | int]:
    """Name or fixed size of each axis of a tensor."""
    if tensor.dims == HIDDEN_STATE.dims:
        return [BATCH_AXIS, config.layers, config.hidden]
    free = _FREE_AXES.get(tensor, TIME_AXIS)
    return [BATCH_AXIS, *(free if size == -1 else size for size in tensor.dims)]


def require_equal(check: str, where: str, expected: object, got: object) -> None:
    """Fail the check of this name if two values differ.

    Raises:
        ExportError: the values differ.
    """
    if expected != got:
        raise ExportError(f"check failed: {check}", where=where, expected=str(expected), got=str(got))
