"""PyTorch -> ONNX: one graph from features to probabilities, normalisation included, batch and time dynamic.

Shapes: B tracks, T steps, F features, H hidden units, L layers.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Final

import onnx
import torch
from torch import Tensor, nn

from reentry.schema import FEATURES, REENTRY_LSTM, SCHEMA_VERSION
from training.checkpoint import Checkpoint
from training.model import ReentryLSTM

OPSET: Final = 17
"""LayerNormalization came with it; every Triton since 22.07 and TensorRT since 8.6 reads it."""

BATCH_AXIS: Final = "batch"
TIME_AXIS: Final = "time"


class ServedModel(nn.Module):
    """What the graph computes: probabilities, and the version it was installed as.

    The version is a constant of the graph, so that an answer says for certain which version gave it, also while a
    server changes from one to the next.
    """

    version: Tensor

    def __init__(self, model: ReentryLSTM, version: int) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("version", torch.tensor(version, dtype=torch.int64))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) -> (B, T) and (B, 1)."""
        config = self.model.config
        # Explicit, or the exporter would fix the batch size of the example into the initial state.
        start = features.new_zeros(config.layers, features.shape[0], config.hidden)
        logits, _ = self.model(features, (start, start))
        versions = (
            torch.zeros_like(features[:, 0, :1], dtype=torch.int64) + self.version
        )  # (B, 1), in every exporter's eyes
        return torch.sigmoid(logits), versions


def to_onnx(checkpoint: Checkpoint, version: int) -> onnx.ModelProto:
    """Export the network of a checkpoint as version `version` of `reentry_lstm`.

    Returns:
        The checked graph; names and axes as `schema.REENTRY_LSTM`, metadata says where it comes from.
    """
    served = ServedModel(checkpoint.model, version).eval()
    example = torch.zeros(2, 3, len(FEATURES))  # axes of size 1 in the example would be fixed
    (features,) = REENTRY_LSTM.inputs
    outputs = [tensor.name for tensor in REENTRY_LSTM.outputs]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "model.onnx"
        # torch.export specialises an LSTM's time axis to the example's length (PyTorch 2.13), so the older exporter
        # it is. It warns that it is the older one, and of axes it might fix: those the gate checks.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            served,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[features.name],
            output_names=outputs,
            dynamic_axes={
                features.name: {0: BATCH_AXIS, 1: TIME_AXIS},
                outputs[0]: {0: BATCH_AXIS, 1: TIME_AXIS},
                outputs[1]: {0: BATCH_AXIS},
            },
        )
        graph = onnx.load(path)
    onnx.helper.set_model_props(
        graph,
        {
            "schema_version": str(SCHEMA_VERSION),
            "features": ",".join(FEATURES),
            "data_fingerprint": checkpoint.data_fingerprint,
            "git_revision": checkpoint.git_revision,
        },
    )
    onnx.checker.check_model(graph, full_check=True)
    return graph
