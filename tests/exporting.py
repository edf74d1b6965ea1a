"""A checkpoint and a repository to export it into, as the tests of the export use them."""

from __future__ import annotations

from pathlib import Path

import torch

from export.config import ExportConfig
from reentry.decision import DecisionConfig
from reentry.schema import FEATURES, REENTRY_LSTM
from reentry.tracks import tracks_table, write_tracks
from tests.training_data import short_tracks
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample, samples_of
from training.models.networks import ReentryLSTM


def checkpoint_of(config: ModelConfig) -> Checkpoint:
    """An untrained network whose probabilities are not flat."""
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
    """One whose head is fitted to short flights, so that it has onsets to be wrong about."""
    made = checkpoint_of(config)
    made.model.chosen.fill_(FEATURES.index("altitude_fraction"))
    made.model.mean.fill_(0.5)
    made.model.std.fill_(0.1)
    with torch.no_grad():  # the first unit falls with the fraction, and the head reads that unit alone
        for weight in made.model.lstm.parameters():
            weight.zero_()
        hidden = config.hidden
        made.model.lstm.bias_ih_l0[:hidden] = 4.0  # the input gate is open
        made.model.lstm.bias_ih_l0[hidden : 2 * hidden] = -4.0  # forget what was
        made.model.lstm.bias_ih_l0[3 * hidden :] = 4.0  # and the output gate is open
        made.model.lstm.weight_ih_l0[2 * hidden, 0] = -1.0
        made.model.head.weight.zero_()
        made.model.head.weight[0, 0] = 40.0
        made.model.head.bias.zero_()
    return made


def flights(folder: Path, tracks: int = 3) -> list[Sample]:
    return samples_of(short_tracks(folder, tracks), where="flights")


def exporting(folder: Path, checkpoint: Checkpoint) -> ExportConfig:
    """A small export of `checkpoint` into an empty repository, verified on short flights beside it."""
    save_checkpoint(folder / "model.ckpt", checkpoint)
    write_tracks(folder / "validation.parquet", tracks_table(short_tracks(folder, 3)))
    model = folder / "repository" / REENTRY_LSTM.name
    model.mkdir(parents=True)
    source = Path(__file__).parents[1] / "model_repository" / REENTRY_LSTM.name / "config.pbtxt"
    (model / "config.pbtxt").write_text(source.read_text())
    return ExportConfig(
        checkpoint=folder / "model.ckpt", repository=folder / "repository", batches=(1, 2), lengths=(1, 7)
    )
