"""Fitting a network: repeatable, quiet, and without data from the validation split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reentry.errors import ConfigError
from tests.orbit import PRIOR
from tests.training_data import short_samples
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample
from training.evaluation.metrics import score
from training.evaluation.predictions import predict
from training.fit.fit import Trained, fit
from training.models.networks import ReentryLSTM

SHAPE = ModelConfig(hidden=8)
QUICK = TrainConfig(epochs=4, accelerator="cpu")


def train(samples: list[Sample], config: TrainConfig = QUICK, shape: ModelConfig = SHAPE) -> Trained:
    return fit(samples, shape, config, fingerprint="of the data")


def test_the_same_seed_gives_the_same_losses_and_weights_bit_for_bit(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    first = train(samples, shape=replace(SHAPE, dropout=0.3))
    torch.manual_seed(99)  # the state left by earlier code must not matter
    second = train(samples, shape=replace(SHAPE, dropout=0.3))
    assert first.losses == second.losses
    for name, weight in first.checkpoint.model.state_dict().items():
        assert torch.equal(weight, second.checkpoint.model.state_dict()[name]), name


def test_another_seed_gives_other_losses(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    assert train(samples).losses != train(samples, replace(QUICK, seed=1)).losses


def test_training_does_not_change_the_random_state_of_the_process(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(samples)
    assert torch.equal(torch.rand(3), expected)


def test_training_writes_no_file_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = short_samples(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    train(samples)
    assert list((tmp_path / "empty").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_statistics_come_from_the_training_split_alone(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    trained = train(samples)
    steps = torch.cat([sample.features for sample in trained.train])[:, trained.checkpoint.model.chosen]
    torch.testing.assert_close(trained.checkpoint.model.mean, steps.mean(dim=0), rtol=1e-5, atol=1e-5)
    held = set(trained.checkpoint.validation_tracks)
    assert held == {sample.track.track_id for sample in trained.validation}
    assert held.isdisjoint(sample.track.track_id for sample in trained.train)


def test_a_trained_network_finds_the_onsets_of_unseen_tracks(tmp_path: Path) -> None:
    trained = train(short_samples(tmp_path, tracks=24), replace(QUICK, epochs=60, learning_rate=2e-2))
    assert trained.losses[-1] < trained.losses[0] / 3
    checkpoint = trained.checkpoint
    unseen = score(predict(checkpoint.model, short_samples(tmp_path, tracks=30, seed=7)), checkpoint.decision)
    assert unseen.missed_onsets == 0
    assert unseen.onset_within_step == 1.0
    assert unseen.onset_rmse < 0.4


def test_a_flight_that_still_climbs_has_no_onset(tmp_path: Path) -> None:
    trained = train(short_samples(tmp_path, tracks=24), replace(QUICK, epochs=60, learning_rate=2e-2))
    climbing = [
        replace(sample, features=sample.features[: len(sample.phase) // 4]) for sample in short_samples(tmp_path)
    ]
    for prediction in predict(trained.checkpoint.model, climbing):
        assert prediction.probability.max() < trained.checkpoint.decision.enter


def test_the_weights_of_the_lowest_validation_loss_are_kept(tmp_path: Path) -> None:
    shape = replace(
        SHAPE, features=("altitude_fraction",), harmonics=(16,), magnified=()
    )  # a configuration that learns less easily
    trained = train(short_samples(tmp_path), replace(QUICK, epochs=30, learning_rate=0.3, patience=2), shape)
    assert len(trained.losses) == trained.best_epoch + 1 + 2  # stopped two epochs after the best one
    assert len(trained.losses) < 30


def test_the_metrics_are_those_of_the_validation_split(tmp_path: Path) -> None:
    trained = train(short_samples(tmp_path), replace(QUICK, epochs=30))
    checkpoint = trained.checkpoint
    again = score(predict(checkpoint.model, trained.validation), checkpoint.decision)
    assert checkpoint.metrics == again.as_dict()
    assert not checkpoint.model.training


def test_a_nan_loss_is_reported(tmp_path: Path) -> None:
    samples = short_samples(tmp_path)
    broken = [replace(sample, features=sample.features * float("nan")) for sample in samples]
    with pytest.raises(ConfigError, match="diverged") as error:
        train(broken)
    assert error.value.got == f"learning rate {QUICK.learning_rate}"


def test_the_drift_reference_is_computed_from_the_training_split_alone(tmp_path: Path) -> None:
    trained = train(short_samples(tmp_path))
    reference = trained.checkpoint.reference
    assert reference is not None
    assert reference.reentry_share == pytest.approx(float(torch.cat([s.phase for s in trained.train]).mean()))
    highest = max(float(sample.features[:, 0].max()) for sample in trained.train)
    assert reference.features["altitude"].edges[-1] == pytest.approx(highest, rel=2e-3)
    assert [name for name, feature in reference.features.items() if feature.used] == list(SHAPE.features)
    assert reference.orbit_prior is None


def test_the_learned_prior_of_a_network_is_part_of_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReentryLSTM, "orbit_prior", lambda _: PRIOR)
    reference = train(short_samples(tmp_path)).checkpoint.reference
    assert reference is not None
    np.testing.assert_array_equal(reference.orbit_prior, PRIOR)
