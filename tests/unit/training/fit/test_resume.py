"""A resumed run gives the same result as a run without interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reentry.errors import CheckpointError
from tests.training_data import short_samples
from training.config import ModelConfig, TrainConfig
from training.data.samples import Sample
from training.fit.fit import Trained, fit

SHAPE = ModelConfig(hidden=4, dropout=0.3)
QUICK = TrainConfig(epochs=5, accelerator="cpu", batch_size=3)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return short_samples(tmp_path)


def train(samples: list[Sample], config: TrainConfig = QUICK, fingerprint: str = "of the data", **more: Any) -> Trained:
    return fit(samples, SHAPE, config, fingerprint=fingerprint, show_progress=False, **more)


def interrupt(samples: list[Sample], unfinished: Path, config: TrainConfig = QUICK, *, at: int = 3) -> None:
    def raise_interrupt(epoch: int, figures: dict[str, float]) -> None:
        if epoch == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(samples, config, unfinished=unfinished, on_epoch=raise_interrupt)


def assert_same_result(one: Trained, other: Trained) -> None:
    assert one.history == other.history
    assert one.best_epoch == other.best_epoch
    for name, weight in one.checkpoint.model.state_dict().items():
        assert torch.equal(weight, other.checkpoint.model.state_dict()[name]), name


@pytest.mark.parametrize("bucket_from", [1000, 1])
def test_a_resumed_run_gives_the_same_result_bit_for_bit(
    samples: list[Sample], tmp_path: Path, bucket_from: int
) -> None:
    config = replace(QUICK, bucket_from=bucket_from)
    interrupt(samples, tmp_path / "run", config)
    assert_same_result(train(samples, config, unfinished=tmp_path / "run", resume=True), train(samples, config))


def test_a_run_that_stopped_early_stops_at_the_same_epoch_when_resumed(samples: list[Sample], tmp_path: Path) -> None:
    config = replace(QUICK, epochs=40, learning_rate=0.5, patience=2)
    whole = train(samples, config)
    last = len(whole.history) - 1
    assert last < 39
    interrupt(samples, tmp_path / "run", config, at=last)
    assert_same_result(train(samples, config, unfinished=tmp_path / "run", resume=True), whole)
    # A run that is killed after its last epoch and before its files are written can be resumed again.
    assert_same_result(train(samples, config, unfinished=tmp_path / "run", resume=True), whole)


def test_keeping_the_state_of_a_run_does_not_change_its_result(samples: list[Sample], tmp_path: Path) -> None:
    assert_same_result(train(samples, unfinished=tmp_path / "run"), train(samples))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".csv"] == ["run"]


def test_a_resumed_run_reports_the_figures_of_all_epochs_in_order(samples: list[Sample], tmp_path: Path) -> None:
    reported: list[tuple[int, dict[str, float]]] = []
    interrupt(samples, tmp_path / "run")
    trained = train(
        samples,
        unfinished=tmp_path / "run",
        resume=True,
        on_epoch=lambda epoch, figures: reported.append((epoch, figures)),
    )
    assert reported == list(enumerate(trained.history))
    assert set(reported[0][1]) == {"train_loss", "validation_loss", "learning_rate"}
    assert trained.losses == [figures["train_loss"] for _, figures in reported]
    assert trained.best_epoch == min(range(5), key=lambda epoch: reported[epoch][1]["validation_loss"])
    assert reported[4][1]["learning_rate"] < reported[1][1]["learning_rate"] <= QUICK.learning_rate


def test_a_run_with_other_data_or_settings_is_not_resumed(samples: list[Sample], tmp_path: Path) -> None:
    interrupt(samples, tmp_path / "run")
    with pytest.raises(CheckpointError, match="other data or settings") as error:
        train(samples, replace(QUICK, seed=1), unfinished=tmp_path / "run", resume=True)
    assert (error.value.expected, error.value.got) == ("train seed 0", "train seed 1")
    assert error.value.fix
    with pytest.raises(CheckpointError) as error:
        train(samples, fingerprint="another", unfinished=tmp_path / "run", resume=True)
    assert (error.value.expected, error.value.got) == ("data of the data", "data another")


@pytest.mark.parametrize("content", [None, b"", b"no pickle", "a checkpoint of something else"])
def test_a_missing_or_invalid_run_is_not_resumed(
    samples: list[Sample], tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "run"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"no.* interrupted run") as error:
        train(samples, unfinished=path, resume=True)
    assert (error.value.where, error.value.fix) == (str(path), "train without --resume")
