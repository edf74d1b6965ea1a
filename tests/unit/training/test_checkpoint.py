"""Checkpoints: what is saved is loaded, and files that are no valid checkpoint are rejected with the reason."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reentry.decision import DecisionConfig
from reentry.drift import Reference
from reentry.errors import CheckpointError
from reentry.schema import FEATURES, SCHEMA_VERSION
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.models.networks import ReentryLSTM


def checkpoint(**shape: Any) -> Checkpoint:
    model = ReentryLSTM(ModelConfig(**shape)).eval()
    model.fit_normalisation(torch.randn(50, len(FEATURES)) * 100.0)
    return Checkpoint(
        model=model,
        train_config=TrainConfig(seed=7, epochs=3),
        decision=DecisionConfig(enter=0.6, leave=0.1),
        data_fingerprint="abc",
        git_revision="def",
        metrics={"onset_rmse": 0.25},
        validation_tracks=(3, 5),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model.ckpt", checkpoint(hidden=4))
    return tmp_path / "model.ckpt"


def changed(path: Path, **entries: Any) -> Path:
    content = torch.load(path, weights_only=True)
    torch.save({**content, **entries}, path)
    return path


@torch.no_grad()
def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    before = checkpoint(hidden=5, layers=2, layer_norm=True, features=("climb_rate",))
    save_checkpoint(tmp_path / "new" / "model.ckpt", before)
    after = load_checkpoint(tmp_path / "new" / "model.ckpt")
    track = torch.randn(1, 20, len(FEATURES))
    assert torch.equal(after.model(track)[0], before.model(track)[0])
    assert not after.model.training
    assert after.model_config == before.model_config
    assert (after.seed, after.train_config, after.decision) == (7, before.train_config, before.decision)
    assert (after.data_fingerprint, after.git_revision, after.metrics) == ("abc", "def", {"onset_rmse": 0.25})
    assert (after.validation_tracks, after.schema_version) == ((3, 5), SCHEMA_VERSION)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.ckpt"]


def test_an_old_checkpoint_without_a_reference_is_loaded(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    del content["reference"]
    torch.save(content, saved)
    assert load_checkpoint(saved).reference is None


def test_sketches_of_training_flights_are_saved_and_an_old_checkpoint_without_them_is_loaded(saved: Path) -> None:
    assert load_checkpoint(saved).trained_rows is None
    kept = torch.arange(32, dtype=torch.int32).reshape(2, 16)
    save_checkpoint(saved, replace(load_checkpoint(saved), trained_rows=kept))
    after = load_checkpoint(saved).trained_rows
    assert after is not None
    assert torch.equal(after, kept)
    content = torch.load(saved, weights_only=True)
    del content["trained_rows"]
    torch.save(content, saved)
    assert load_checkpoint(saved).trained_rows is None


def test_the_reference_is_saved_and_loaded(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(300, len(FEATURES))).astype(np.float32)
    before = replace(checkpoint(), reference=Reference.of(features, features[:, 0] > 0, ("altitude",)))
    save_checkpoint(tmp_path / "model.ckpt", before)
    assert load_checkpoint(tmp_path / "model.ckpt").reference == before.reference


def test_a_missing_checkpoint_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file") as error:
        load_checkpoint(tmp_path / "none.ckpt")
    assert error.value.where == str(tmp_path / "none.ckpt")
    assert "reentry train" in str(error.value.fix)


@pytest.mark.parametrize("content", [b"", b"timestamp,track_id\n1,2\n", b"PK\x03\x04 cut short", b"\x80\x02}q\x00."])
def test_a_file_of_another_kind_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "x")


def test_a_truncated_checkpoint_is_rejected(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(saved)


def test_a_checkpoint_of_another_program_is_rejected(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "other.pt")


def test_loading_a_checkpoint_runs_no_code_from_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with (tmp_path / "evil").open("wb") as file:
        pickle.dump(Evil(), file)
    torch.save({"kind": Evil()}, tmp_path / "evil.pt")
    for name in ("evil", "evil.pt"):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_another_schema_version_is_rejected(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="another schema version") as error:
        load_checkpoint(changed(saved, schema_version=99))
    assert (error.value.expected, error.value.got) == (str(SCHEMA_VERSION), "99")
    assert str(error.value.fix).startswith("train again")


def test_other_features_are_rejected(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="other features") as error:
        load_checkpoint(changed(saved, features=["speed"]))
    assert (error.value.expected, error.value.got) == (", ".join(FEATURES), "speed")
    assert error.value.fix


@pytest.mark.parametrize(
    "entries",
    [
        {"weights": {}},
        {"model_config": {"hidden": 9}},
        {"model_config": {"width": 4}},
        {"train_config": {"epochs": 0}},
        {"reference": {"schema_version": SCHEMA_VERSION}},
    ],
)
def test_a_checkpoint_with_inconsistent_entries_is_rejected(saved: Path, entries: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="broken checkpoint"):
        load_checkpoint(changed(saved, **entries))


def test_a_checkpoint_with_a_missing_entry_is_rejected(saved: Path) -> None:
    for entry in ("schema_version", "metrics"):
        content = torch.load(saved, weights_only=True)
        del content[entry]
        torch.save(content, saved)
        with pytest.raises(CheckpointError, match="broken checkpoint"):
            load_checkpoint(saved)
        save_checkpoint(saved, checkpoint())
