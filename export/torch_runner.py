"""PyTorch itself as a `Runner`: what the formats of an export are measured against.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

import torch
from torch import nn

from export.graphs import ServedModel, StepModel
from export.runners import Array, Carried
from training.checkpoint import Checkpoint


class TorchRunner:
    """The two modules that the graphs are made of, as they are or compiled."""

    step_limit: int | None = None

    def __init__(self, checkpoint: Checkpoint, *, compiled: bool = False) -> None:
        self._whole: nn.Module = ServedModel(checkpoint.model, version=0).eval()
        self._step: nn.Module = StepModel(checkpoint.model, version=0).eval()
        if compiled:
            self._whole.compile()
            self._step.compile()

    def whole(self, features: Array) -> tuple[Array, Array]:
        """See `Runner`; the version is 0, of none."""
        with torch.inference_mode():
            probability, version = self._whole(torch.from_numpy(features))
        return probability.numpy(), version.numpy()

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried]:
        """See `Runner`."""
        with torch.inference_mode():
            probability, hidden, cell, _ = self._step(*map(torch.from_numpy, (features, *state)))
        return probability.numpy(), Carried(hidden.numpy(), cell.numpy())
