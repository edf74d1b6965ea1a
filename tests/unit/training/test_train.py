"""Files that a training writes, also when it is interrupted or killed while it writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from reentry.errors import TrackFileError
from reentry.runtime.signals import Ended
from reentry.tracks import fingerprint
from tests.training_data import write_flights
from training import train
from training.checkpoint import VALIDATION_NAME, load_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.identity import DataIdentity
from training.data.stored import TrainingFile
from training.fit.resume import UNFINISHED_NAME
from training.train import CHECKPOINT_NAME, train_file, train_tracks

SHAPE: Final = ModelConfig(hidden=4)
NEW: Final = TrainConfig(epochs=2, seed=1, accelerator="cpu")
FILES: Final = ["model.ckpt", "model_card.md", "onset_errors.png", "reliability.png", "validation.parquet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "train.csv")


@pytest.fixture(scope="module")
def earlier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of an earlier training; tests use a copy."""
    folder = tmp_path_factory.mktemp("earlier")
    train_file(data, folder, SHAPE, TrainConfig(epochs=1, seed=0, accelerator="cpu"))
    return folder


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the new training without an interruption."""
    return train_file(data, tmp_path_factory.mktemp("new"), SHAPE, NEW).trained.checkpoint.model.state_dict()


@pytest.fixture
def out(earlier: Path, tmp_path: Path) -> Path:
    return shutil.copytree(earlier, tmp_path / "out")


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def interrupt(*_: Any, **__: Any) -> None:
    raise Ended


def test_a_training_replaces_all_files_of_an_earlier_one_and_leaves_no_others(data: Path, out: Path) -> None:
    before = contents(out)
    assert sorted(before) == FILES
    train_file(data, out, SHAPE, NEW)
    after = contents(out)
    assert sorted(after) == FILES
    assert all(after[name] != before[name] for name in FILES)
    assert (out / CHECKPOINT_NAME).stat().st_mode == (out / VALIDATION_NAME).stat().st_mode


@pytest.mark.parametrize("step", ["write_tracks", "write_card", "save_checkpoint"])
def test_a_training_that_is_interrupted_while_it_writes_leaves_the_earlier_files_unchanged(
    step: str, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(train, step, interrupt)
        with pytest.raises(Ended):
            train_file(data, out, SHAPE, NEW)
    after = contents(out)
    assert after.pop(UNFINISHED_NAME)
    assert after == before


@pytest.mark.parametrize("moved", [0, 2, len(FILES) - 1])
def test_a_training_killed_between_two_files_leaves_no_checkpoint_and_can_be_resumed(
    moved: int, data: Path, out: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace: Callable[[Path, Path], Path] = Path.replace
    done = []

    def replace_some(path: Path, target: Path) -> Path:
        if target.parent == out and target.name != UNFINISHED_NAME:
            if len(done) == moved:
                raise Ended
            done.append(target.name)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_some)
        with pytest.raises(Ended):
            train_file(data, out, SHAPE, NEW)
    assert CHECKPOINT_NAME not in contents(out)
    train_tracks(TrainingFile.of(data), out, SHAPE, NEW, resume=True)
    assert sorted(contents(out)) == FILES
    for name, weight in load_checkpoint(out / CHECKPOINT_NAME).model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_an_earlier_unfinished_run_is_deleted(data: Path, out: Path) -> None:
    (out / UNFINISHED_NAME).write_bytes(b"of another run")
    with pytest.raises(KeyboardInterrupt):
        train_tracks(TrainingFile.of(data), out, SHAPE, NEW, on_epoch=interrupt)
    assert not (out / UNFINISHED_NAME).exists()


def test_an_unreadable_file_does_not_delete_an_unfinished_run(tmp_path: Path, out: Path) -> None:
    (out / UNFINISHED_NAME).write_bytes(b"of another run")
    with pytest.raises(TrackFileError) as error:
        train_file(tmp_path / "none.csv", out, SHAPE, NEW)
    assert error.value.where == str(tmp_path / "none.csv")
    assert (out / UNFINISHED_NAME).read_bytes() == b"of another run"


def test_the_checkpoint_has_the_fingerprints_of_the_file_that_was_read(data: Path, tmp_path: Path) -> None:
    path, before = tmp_path / "data.csv", fingerprint(data)
    shutil.copy(data, path)
    trained = train_tracks(
        TrainingFile.of(path), tmp_path / "out", SHAPE, NEW, on_epoch=lambda *_: path.write_text("changed")
    ).trained
    checkpoint = load_checkpoint(tmp_path / "out" / CHECKPOINT_NAME)
    identity = DataIdentity.of(sample.track for sample in trained.train)
    assert checkpoint.data_file_fingerprint == before != fingerprint(path)
    assert checkpoint.trained_flights == set(identity.flight_fingerprints)
    assert checkpoint.trained_rows is not None
    assert torch.equal(checkpoint.trained_rows, identity.sketches)
    assert checkpoint.data_fingerprint != identity.tracks_fingerprint  # it includes the validation tracks


def test_a_file_that_changed_after_its_fingerprint_was_recorded_is_rejected(data: Path, out: Path) -> None:
    before = contents(out)
    with pytest.raises(TrackFileError, match="changed while it was read"):
        train_tracks(TrainingFile(path=data, file_fingerprint="recorded earlier"), out, SHAPE, NEW)
    assert contents(out) == before
