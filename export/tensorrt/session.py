"""A `Session` over whatever runs engines by the names of their tensors.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.sessions import Carried
from reentry import schema

Array = npt.NDArray[Any]


class EngineSession(ABC):
    """Two engines of a version's folder: over whole tracks, and over one step."""

    step_limit: int | None = None

    def __init__(self, whole: Path, step: Path) -> None:
        self._whole, self._step = whole, step

    @abstractmethod
    def _call(self, engine: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one of the two by name; inputs are contiguous float32."""

    def whole(self, features: Array) -> tuple[Array, Array]:
        """See `Session`."""
        outputs = self._call(self._whole, {schema.FEATURES_TENSOR.name: np.ascontiguousarray(features, np.float32)})
        return outputs[schema.PROBABILITY.name], outputs[schema.MODEL_VERSION.name]

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """See `Session`."""
        inputs = {
            schema.STEP_FEATURES.name: features,
            schema.HIDDEN_STATE.name: state.hidden,
            schema.CELL_STATE.name: state.cell,
        }
        outputs = self._call(
            self._step, {name: np.ascontiguousarray(values, np.float32) for name, values in inputs.items()}
        )
        carried = Carried(outputs[schema.NEXT_HIDDEN_STATE.name], outputs[schema.NEXT_CELL_STATE.name])
        return outputs[schema.STEP_PROBABILITY.name], carried, outputs[schema.MODEL_VERSION.name]
