"""A run that was interrupted goes on to the end it would have come to."""

from __future__ import annotations

import re
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


def interrupted(samples: list[Sample], unfinished: Path, config: TrainConfig = QUICK, *, at: int = 3) -> None:
    def end(epoch: int, figures: dict[str, float]) -> None:
        if epoch == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(samples, config, unfinished=unfinished, on_epoch=end)


def assert_same_end(one: Trained, other: Trained) -> None:
    assert one.history == other.history
    assert one.best_epoch == other.best_epoch
    for name, weight in one.checkpoint.model.state_dict().items():
        assert torch.equal(weight, other.checkpoint.model.state_dict()[name]), name


@pytest.mark.parametrize("bucket_from", [1000, 1])
def test_a_resumed_run_comes_to_the_same_end_bit_for_bit(
    samples: list[Sample], tmp_path: Path, bucket_from: int
) -> None:
    config = replace(QUICK, bucket_from=bucket_from)
    interrupted(samples, tmp_path / "run", config)
    assert_same_end(train(samples, config, unfinished=tmp_path / "run", resume=True), train(samples, config))


def test_a_run_that_stopped_early_stops_at_the_same_epoch_when_resumed(samples: list[Sample], tmp_path: Path) -> None:
    config = replace(QUICK, epochs=40, learning_rate=0.5, patience=2)
    whole = train(samples, config)
    last = len(whole.history) - 1
    assert last < 39
    interrupted(samples, tmp_path / "run", config, at=last)
    assert_same_end(train(samples, config, unfinished=tmp_path / "run", resume=True), whole)
    # Killed after its last epoch and before what follows it is written, it comes to that end once more.
    assert_same_end(train(samples, config, unfinished=tmp_path / "run", resume=True), whole)


def test_keeping_the_run_changes_nothing(samples: list[Sample], tmp_path: Path) -> None:
    assert_same_end(train(samples, unfinished=tmp_path / "run"), train(samples))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".csv"] == ["run"]


def test_the_figures_of_each_epoch_are_told_in_order_also_of_those_before(
    samples: list[Sample], tmp_path: Path
) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    interrupted(samples, tmp_path / "run")
    trained = train(
        samples, unfinished=tmp_path / "run", resume=True, on_epoch=lambda epoch, figures: told.append((epoch, figures))
    )
    assert told == list(enumerate(trained.history))
    assert set(told[0][1]) == {"train_loss", "validation_loss", "learning_rate"}
    assert trained.losses == [figures["train_loss"] for _, figures in told]
    assert trained.best_epoch == min(range(5), key=lambda epoch: told[epoch][1]["validation_loss"])
    assert told[4][1]["learning_rate"] < told[1][1]["learning_rate"] <= QUICK.learning_rate


def test_a_run_of_other_data_or_settings_is_not_gone_on_with(samples: list[Sample], tmp_path: Path) -> None:
    interrupted(samples, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"other data or settings; expected train seed 0; got train seed 1; fix"):
        train(samples, replace(QUICK, seed=1), unfinished=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match=r"expected data of the data; got data another"):
        train(samples, fingerprint="another", unfinished=tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", [None, b"", b"no pickle", "a checkpoint of something else"])
def test_where_there_is_no_run_to_go_on_with_one_line_says_so(
    samples: list[Sample], tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "run"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}: no.* interrupted run; fix: train without"):
        train(samples, unfinished=path, resume=True)
