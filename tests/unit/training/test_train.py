"""What a training leaves in its folder, also where it is interrupted or killed as it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from reentry.errors import TrackFileError
from reentry.runtime.signals import Ended
from tests.training_data import write_flights
from training import train
from training.checkpoint import VALIDATION_NAME, load_checkpoint
from training.config import ModelConfig, TrainConfig
from training.fit.resume import UNFINISHED_NAME
from training.train import CHECKPOINT_NAME, train_file

SHAPE: Final = ModelConfig(hidden=4)
NEW: Final = TrainConfig(epochs=2, seed=1, accelerator="cpu")
LEFT: Final = ["model.ckpt", "model_card.md", "onset_errors.png", "reliability.png", "validation.parquet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "train.csv")


@pytest.fixture(scope="module")
def earlier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an earlier training left; to be copied."""
    folder = tmp_path_factory.mktemp("earlier")
    train_file(data, folder, SHAPE, TrainConfig(epochs=1, seed=0, accelerator="cpu"))
    return folder


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Of the new training, uninterrupted."""
    return train_file(data, tmp_path_factory.mktemp("new"), SHAPE, NEW).trained.checkpoint.model.state_dict()


@pytest.fixture
def out(earlier: Path, tmp_path: Path) -> Path:
    return shutil.copytree(earlier, tmp_path / "out")


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def ended(*_: Any, **__: Any) -> None:
    raise Ended


def test_the_files_are_of_one_training_and_nothing_else_is_left(data: Path, out: Path) -> None:
    before = contents(out)
    assert sorted(before) == LEFT
    train_file(data, out, SHAPE, NEW)
    after = contents(out)
    assert sorted(after) == LEFT
    assert all(after[name] != before[name] for name in LEFT)
    assert (out / CHECKPOINT_NAME).stat().st_mode == (out / VALIDATION_NAME).stat().st_mode


@pytest.mark.parametrize("step", ["write_tracks", "write_card", "save_checkpoint"])
def test_a_training_that_is_interrupted_as_it_writes_leaves_the_earlier_one_whole(
    step: str, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(train, step, ended)
        with pytest.raises(Ended):
            train_file(data, out, SHAPE, NEW)
    after = contents(out)
    assert after.pop(UNFINISHED_NAME)
    assert after == before
    assert f"interrupted: {out / UNFINISHED_NAME} keeps the run" in capsys.readouterr().err


@pytest.mark.parametrize("moved", [0, 2, len(LEFT) - 1])
def test_killed_between_two_files_it_leaves_no_model_beside_those_of_another_and_can_be_resumed(
    moved: int, data: Path, out: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace: Callable[[Path, Path], Path] = Path.replace
    done = []

    def some(path: Path, target: Path) -> Path:
        if target.parent == out and target.name != UNFINISHED_NAME:
            if len(done) == moved:
                raise Ended
            done.append(target.name)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", some)
        with pytest.raises(Ended):
            train_file(data, out, SHAPE, NEW)
    assert CHECKPOINT_NAME not in contents(out)
    train_file(data, out, SHAPE, NEW, resume=True)
    assert sorted(contents(out)) == LEFT
    for name, weight in load_checkpoint(out / CHECKPOINT_NAME).model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_an_earlier_unfinished_run_is_not_told_to_be_this_one(
    data: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / UNFINISHED_NAME).write_bytes(b"of another run")
    with pytest.raises(KeyboardInterrupt):
        train_file(data, out, SHAPE, NEW, on_epoch=ended)
    assert "keeps the run" not in capsys.readouterr().err
    assert not (out / UNFINISHED_NAME).exists()


def test_a_file_that_cannot_be_read_costs_no_unfinished_run(tmp_path: Path, out: Path) -> None:
    (out / UNFINISHED_NAME).write_bytes(b"of another run")
    with pytest.raises(TrackFileError, match=r"none\.csv: "):
        train_file(tmp_path / "none.csv", out, SHAPE, NEW)
    assert (out / UNFINISHED_NAME).read_bytes() == b"of another run"
