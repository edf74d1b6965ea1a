"""PyTorch as a `Session`: the network itself, which is the reference of the benchmark, and TorchScript.

TorchScript is used rather than torch.export, which fixes the time axis of an LSTM to the example's length (PyTorch
2.13). TorchScript files are a reference for other PyTorch programs; Triton does not serve them.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from export.graphs import ServedModel, StepModel
from export.sessions import Array, Carried
from reentry.schema import FEATURES
from training.checkpoint import Checkpoint


class TorchSession:
    """A module over whole tracks and a module over one step, with the inputs and outputs of the exported graphs."""

    step_limit: int | None = None

    def __init__(self, whole: nn.Module, step: nn.Module) -> None:
        self._whole = whole.eval()
        self._step = step.eval()

    def whole(self, features: Array) -> tuple[Array, Array]:
        """See `Session.whole`."""
        with torch.inference_mode():
            probability, version = self._whole(torch.from_numpy(features))
        return probability.numpy(), version.numpy()

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """See `Session.step`."""
        with torch.inference_mode():
            probability, hidden, cell, version = self._step(*map(torch.from_numpy, (features, *state)))
        return probability.numpy(), Carried(hidden.numpy(), cell.numpy()), version.numpy()


def network_session(checkpoint: Checkpoint, *, compiled: bool = False) -> TorchSession:
    """The network of a checkpoint, with version number 0; if `compiled`, through torch.compile."""
    modules = ServedModel(checkpoint.model, version=0), StepModel(checkpoint.model, version=0)
    if compiled:
        for module in modules:
            module.compile()
    return TorchSession(*modules)


def save_torchscript(checkpoint: Checkpoint, version: int, whole: Path, step: Path) -> None:
    """Trace both graphs and write them to the paths `whole` and `step`."""
    config = checkpoint.model_config
    state = torch.zeros(2, config.layers, config.hidden)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that TorchScript is deprecated
        for path, module, example in (
            (whole, ServedModel(checkpoint.model, version), torch.zeros(2, 3, len(FEATURES))),
            (step, StepModel(checkpoint.model, version), (torch.zeros(2, len(FEATURES)), state, state)),
        ):
            traced = torch.jit.trace(module.eval(), example)  # type: ignore[no-untyped-call]
            path.write_bytes(traced.save_to_buffer())  # ScriptModule.save aborts the process if the disk is full


def torchscript_session(whole: Path, step: Path) -> TorchSession:
    """Both TorchScript graphs, loaded on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TorchSession(*(torch.jit.load(path, map_location="cpu") for path in (whole, step)))  # type: ignore[no-untyped-call]
