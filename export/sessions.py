"""One way to run every format: whole tracks, and one step with carried state. The gate and the benchmark use it.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from reentry import schema

Array = npt.NDArray[Any]


class Carried(NamedTuple):
    """What a track's step leaves to the next; batch first, as Triton wants a state."""

    hidden: Array
    """(B, L, H) float32."""
    cell: Array
    """(B, L, H) float32."""


def no_state(batch: int, layers: int, hidden: int) -> Carried:
    """The state at the start of a track."""
    return Carried(np.zeros((batch, layers, hidden), np.float32), np.zeros((batch, layers, hidden), np.float32))


class Session(Protocol):
    """A format, loaded."""

    step_limit: int | None
    """Most steps that are worth running one by one; None: any number."""

    def whole(self, features: Array) -> tuple[Array, Array]:
        """(B, T, F) float32 -> probability (B, T) float32, model_version (B, 1) int64."""

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """(B, F) float32 and the state so far -> probability (B, 1), the next state, model_version (B, 1) int64."""


class OnnxSession:
    """ONNX Runtime over the two graphs of a version's folder."""

    step_limit: int | None = None

    def __init__(
        self,
        whole: Path,
        step: Path,
        *,
        threads: int = 1,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._whole = onnxruntime.InferenceSession(whole, options, providers=list(providers))
        self._step = onnxruntime.InferenceSession(step, options, providers=list(providers))

    def whole(self, features: Array) -> tuple[Array, Array]:
        """See `Session`."""
        probability, version = self._whole.run(
            [schema.PROBABILITY.name, schema.MODEL_VERSION.name], {schema.FEATURES_TENSOR.name: features}
        )
        return probability, version

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """See `Session`."""
        inputs = {
            schema.STEP_FEATURES.name: features,
            schema.HIDDEN_STATE.name: state.hidden,
            schema.CELL_STATE.name: state.cell,
        }
        outputs = [tensor.name for tensor in schema.REENTRY_STEP.outputs]
        probability, hidden, cell, version = self._step.run(outputs, inputs)
        return probability, Carried(hidden, cell), version
