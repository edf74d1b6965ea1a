"""TorchScript of both graphs: a reference beside ONNX, read by PyTorch alone, not served.

TorchScript rather than torch.export, which fixes the time axis of an LSTM to the example's length (PyTorch 2.13).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from export.graphs import ServedModel, StepModel
from export.torch_session import TorchSession
from reentry.schema import FEATURES
from training.checkpoint import Checkpoint


def save_torchscript(checkpoint: Checkpoint, version: int, whole: Path, step: Path) -> None:
    """Trace both graphs and write them."""
    config = checkpoint.model_config
    state = torch.zeros(2, config.layers, config.hidden)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older of PyTorch's two formats
        for path, module, example in (
            (whole, ServedModel(checkpoint.model, version), torch.zeros(2, 3, len(FEATURES))),
            (step, StepModel(checkpoint.model, version), (torch.zeros(2, len(FEATURES)), state, state)),
        ):
            traced = torch.jit.trace(module.eval(), example)  # type: ignore[no-untyped-call]
            path.write_bytes(traced.save_to_buffer())  # its own save() ends the process where the disk is full


def torchscript_runner(whole: Path, step: Path) -> TorchSession:
    """Both graphs, loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TorchSession(*(_load(path) for path in (whole, step)))


def _load(path: Path) -> torch.jit.ScriptModule:
    module: torch.jit.ScriptModule = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return module
