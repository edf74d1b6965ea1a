"""Checkpoints: whole, readable by this program alone, refused with a reason."""

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
def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
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


def test_a_checkpoint_of_before_there_was_a_reference_is_loaded_without(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    del content["reference"]
    torch.save(content, saved)
    assert load_checkpoint(saved).reference is None


def test_rows_of_training_flights_are_kept_and_missing_from_older_checkpoints(saved: Path) -> None:
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


def test_no_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such file; fix: .*reentry train"):
        load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("content", [b"", b"timestamp,track_id\n1,2\n", b"PK\x03\x04 cut short", b"\x80\x02}q\x00."])
def test_another_file_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "x")


def test_a_truncated_checkpoint_is_no_checkpoint(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(saved)


def test_another_programs_file_is_no_checkpoint_of_this_one(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
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


def test_another_schema_version_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=f"another schema version; expected {SCHEMA_VERSION}; got 99; fix: train"):
        load_checkpoint(changed(saved, schema_version=99))


def test_other_features_are_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"other features; expected altitude.*; got speed; fix"):
        load_checkpoint(changed(saved, features=["speed"]))


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
def test_a_checkpoint_that_contradicts_itself_is_broken(saved: Path, entries: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="broken checkpoint"):
        load_checkpoint(changed(saved, **entries))


def test_a_checkpoint_without_an_entry_is_broken(saved: Path) -> None:
    for entry in ("schema_version", "metrics"):
        content = torch.load(saved, weights_only=True)
        del content[entry]
        torch.save(content, saved)
        with pytest.raises(CheckpointError, match="broken checkpoint"):
            load_checkpoint(saved)
        save_checkpoint(saved, checkpoint())
