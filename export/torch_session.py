"""PyTorch itself as a `Session`: what the formats of an export are measured against.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

import torch
from torch import nn

from export.graphs import ServedModel, StepModel
from export.sessions import Array, Carried
from training.checkpoint import Checkpoint


class TorchSession:
    """Modules over whole tracks and over one step, with the inputs and outputs of the graphs."""

    step_limit: int | None = None

    def __init__(self, whole: nn.Module, step: nn.Module) -> None:
        self._whole = whole.eval()
        self._step = step.eval()

    def whole(self, features: Array) -> tuple[Array, Array]:
        """See `Session`."""
        with torch.inference_mode():
            probability, version = self._whole(torch.from_numpy(features))
        return probability.numpy(), version.numpy()

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """See `Session`."""
        with torch.inference_mode():
            probability, hidden, cell, version = self._step(*map(torch.from_numpy, (features, *state)))
        return probability.numpy(), Carried(hidden.numpy(), cell.numpy()), version.numpy()


def network_runner(checkpoint: Checkpoint, *, compiled: bool = False) -> TorchSession:
    """The network of a checkpoint, of version 0, which is none; `compiled` at the first call, by torch.compile."""
    modules = ServedModel(checkpoint.model, version=0), StepModel(checkpoint.model, version=0)
    if compiled:
        for module in modules:
            module.compile()
    return TorchSession(*modules)
