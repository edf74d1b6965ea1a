"""Checkpoints, and a repository to export them into, for tests of the export."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import onnx
import pytest
import torch

from export import builders, gate
from export.config import ExportConfig
from export.validation import flight_features
from reentry.decision import DecisionConfig
from reentry.schema import FEATURES, REENTRY_LSTM
from reentry.tracks import tracks_table, write_tracks
from tests.training_data import short_tracks
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample, samples_of
from training.models.networks import ReentryLSTM


def checkpoint_of(config: ModelConfig) -> Checkpoint:
    """Make a checkpoint of an untrained network whose probabilities vary."""
    torch.manual_seed(0)
    model = ReentryLSTM(config)
    model.fit_normalisation(torch.randn(200, len(FEATURES)) * 100 + 30)
    return Checkpoint(
        model=model.eval(),
        train_config=TrainConfig(seed=4),
        decision=DecisionConfig(),
        data_fingerprint="0123",
        git_revision="abcd",
        metrics={"f1": 0.5, "onset_rmse": float("nan")},
        validation_tracks=(0, 1, 2),
    )


def deciding(config: ModelConfig) -> Checkpoint:
    """Make a checkpoint that finds onsets in short flights, so that tests can shift them."""
    made = checkpoint_of(config)
    made.model.chosen.fill_(FEATURES.index("altitude_fraction"))
    made.model.mean.fill_(0.5)
    made.model.std.fill_(0.1)
    with torch.no_grad():  # the first unit falls with the fraction, and the head reads only that unit
        for weight in made.model.lstm.parameters():
            weight.zero_()
        hidden = config.hidden
        made.model.lstm.bias_ih_l0[:hidden] = 4.0  # the input gate is open
        made.model.lstm.bias_ih_l0[hidden : 2 * hidden] = -4.0  # the forget gate is closed
        made.model.lstm.bias_ih_l0[3 * hidden :] = 4.0  # the output gate is open
        made.model.lstm.weight_ih_l0[2 * hidden, 0] = -1.0
        made.model.head.weight.zero_()
        made.model.head.weight[0, 0] = 40.0
        made.model.head.bias.zero_()
    return made


def flights(folder: Path, tracks: int = 3) -> list[Sample]:
    return samples_of(short_tracks(folder, tracks), where="flights")


def exporting(folder: Path, checkpoint: Checkpoint) -> ExportConfig:
    """Configure a small export of a checkpoint into an empty repository, verified on short flights."""
    save_checkpoint(folder / "model.ckpt", checkpoint)
    write_tracks(folder / "validation.parquet", tracks_table(short_tracks(folder, 3)))
    model = folder / "repository" / REENTRY_LSTM.name
    model.mkdir(parents=True)
    source = Path(__file__).parents[1] / "model_repository" / REENTRY_LSTM.name / "config.pbtxt"
    (model / "config.pbtxt").write_text(source.read_text())
    return ExportConfig(
        checkpoint=folder / "model.ckpt", repository=folder / "repository", batches=(1, 2), lengths=(1, 7)
    )


@contextmanager
def remembered_exports() -> Iterator[None]:
    """Trace each checkpoint once for each version, and simulate the flights of each case of the gate's grid once.

    Tracing takes four fifths of the time of an export. A checkpoint that differs in any value is traced again.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("whole_graph", "step_graph", "track_graph", "stream_graph", "scan_graph"):
            patch.setattr(builders, name, _remembered(getattr(builders, name)))
        simulated = functools.cache(flight_features)
        patch.setattr(gate, "flight_features", lambda *case: simulated(*case).copy())
        yield


def _remembered(trace: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    graphs: dict[bytes, bytes] = {}

    def remembered(checkpoint: Checkpoint, *arguments: object) -> onnx.ModelProto:
        model = checkpoint.model
        tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        about = [getattr(checkpoint, field.name) for field in fields(checkpoint) if field.name != "model"]
        key = hashlib.sha256(pickle.dumps((tensors, model.config, about, arguments))).digest()
        if key not in graphs:
            graphs[key] = trace(checkpoint, *arguments).SerializeToString()
        return onnx.ModelProto.FromString(graphs[key])

    return remembered
