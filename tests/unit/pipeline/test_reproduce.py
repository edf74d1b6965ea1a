"""Reproduction of recorded runs: what is compared, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.lake.lake import Lake
from pipeline.reproduce import reproduce
from reentry.errors import InputError, LakeError
from tests.training_data import write_flights
from training.config import ModelConfig, TrainConfig
from training.data.stored import TrainingFile
from training.runs import recorder as recorder_module
from training.runs.mlflow_store import open_store, tracking_uri
from training.runs.recorded_settings import recorded_settings
from training.runs.recorder import record_training, recording, training_parameters
from training.train import train_tracks

MODEL = ModelConfig(hidden=4, magnified=(), harmonics=(1, 2), features=("altitude", "altitude_fraction"))
CONFIG = TrainConfig(epochs=2, seed=3, learning_rate=1 / 3, accelerator="cpu")
REVISION = "a" * 40


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a store of runs with the run "file" on flights.csv, made by code of a known revision."""
    folder = tmp_path_factory.mktemp("runs")
    data = TrainingFile.of(write_flights(folder / "flights.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(recorder_module, "git_revision", lambda: REVISION)
        parameters = training_parameters(data, MODEL, CONFIG)
        with recording(True, parameters, "file") as recorder:
            record_training(recorder, train_tracks(data, folder / "out", MODEL, CONFIG, on_epoch=recorder.epoch))
        yield folder


def copy_of_the_run(runs: Path, name: str, *, metrics: dict[str, float], **changes: str) -> None:
    """Record a run like the one on the file, with other metrics and parameters."""
    parameters = training_parameters(TrainingFile.of(runs / "flights.csv"), MODEL, CONFIG)
    with recording(True, parameters | changes, name) as recorder:
        recorder.metrics(metrics)


def test_a_run_on_a_file_is_reproduced_to_the_last_bit(runs: Path, lake: Lake, tmp_path: Path) -> None:
    report = reproduce("file", tmp_path, lake)
    assert (report.exact, report.differences, report.notes) == (True, [], [])
    recorded = torch.load(runs / "out/model.ckpt", weights_only=True)
    again = torch.load(report.checkpoint, weights_only=True)
    assert report.weights == len(recorded["weights"])
    np.testing.assert_equal(again["metrics"], recorded["metrics"])
    defined = [name for name, value in recorded["metrics"].items() if not math.isnan(value)]
    assert report.metrics == len(defined) + len(["best epoch", "training loss", "validation loss", "learning rate"])
    for name, weight in recorded["weights"].items():
        assert torch.equal(again["weights"][name], weight), name


def test_a_metric_that_differs_in_its_last_bit_is_a_difference(runs: Path, lake: Lake, tmp_path: Path) -> None:
    client = open_store(tracking_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'reentry'")
    (recorded,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'file'")
    f1 = recorded.data.metrics["f1"]
    near = f1 + 2**-52
    assert near != f1
    copy_of_the_run(runs, "near", metrics=recorded.data.metrics | {"f1": near})
    report = reproduce("near", tmp_path, lake)
    (difference,) = report.differences
    assert (difference.name, difference.recorded, difference.reproduced) == ("f1", repr(near), repr(f1))
    assert not report.exact
    assert report.weights is None  # this run has no checkpoint


def test_other_code_is_refused_unless_it_is_allowed(
    runs: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "git_revision", lambda: "b" * 40)
    with pytest.raises(InputError, match="the code is not that of the run") as error:
        reproduce("file", tmp_path, lake)
    assert f"git revision: {REVISION} in the run, {'b' * 40} now" in str(error.value.got)
    assert "--allow-other-code" in str(error.value.fix)
    assert not (tmp_path / "model.ckpt").exists()
    report = reproduce("file", tmp_path, lake, allow_other_code=True)
    assert report.exact
    assert report.notes == [error.value.got]


@pytest.mark.parametrize("revision", [f"{REVISION}-dirty", "unknown"])
def test_a_run_of_unknown_code_is_refused(
    revision: str, runs: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "git_revision", lambda: revision)
    copy_of_the_run(runs, f"of {revision}", metrics={"f1": 0.5})
    with pytest.raises(InputError, match="the code is not that of the run"):
        reproduce(f"of {revision}", tmp_path, lake)


def test_the_image_identifies_the_code_where_there_is_no_git_revision(
    runs: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "git_revision", lambda: "unknown")
    monkeypatch.setenv("REENTRY_IMAGE_DIGEST", "sha256:1")
    copy_of_the_run(runs, "in an image", metrics={"f1": 0.5})
    monkeypatch.setenv("REENTRY_IMAGE_DIGEST", "sha256:2")
    with pytest.raises(InputError, match="the code is not that of the run") as error:
        reproduce("in an image", tmp_path, lake)
    assert "image digest: sha256:1 in the run, sha256:2 now" in str(error.value.got)


def test_a_changed_file_is_refused(runs: Path, lake: Lake, tmp_path: Path) -> None:
    path = write_flights(tmp_path / "other.csv")
    parameters = training_parameters(TrainingFile.of(path), MODEL, CONFIG)
    with recording(True, parameters, "changed"):
        pass
    write_flights(path, seed=1)
    with pytest.raises(InputError, match="the file has changed since the run") as error:
        reproduce("changed", tmp_path / "out", lake)
    assert error.value.where == str(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        reproduce("changed", tmp_path / "out", lake)


def test_an_unfinished_run_is_refused(runs: Path, lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), recording(True, {"data.path": "a.csv"}, "interrupted"):
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="the run is not finished") as error:
        reproduce("interrupted", tmp_path, lake)
    assert error.value.got == "KILLED"


def test_a_run_without_settings_is_an_error(runs: Path, lake: Lake, tmp_path: Path) -> None:
    with recording(True, {"data.path": "a.csv"}, "empty"):
        pass
    with pytest.raises(InputError, match="the settings of the run are unreadable"):
        reproduce("empty", tmp_path, lake)


def test_a_run_on_a_gpu_is_refused_on_a_machine_without_one(runs: Path, lake: Lake, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    copy_of_the_run(runs, "on a gpu", metrics={"f1": 0.5}, device="gpu")
    with pytest.raises(InputError, match="the run used a GPU"):
        reproduce("on a gpu", tmp_path, lake)


def test_a_run_on_a_table_that_is_gone_is_an_error(runs: Path, lake: Lake, tmp_path: Path) -> None:
    table = {"data.table": "features", "data.version": "3", "data.filter": "", "data.table_id": "another"}
    copy_of_the_run(runs, "on a table", metrics={"f1": 0.5}, **table)
    with pytest.raises(LakeError, match="no such table"):
        reproduce("on a table", tmp_path, lake)


def test_another_processor_is_named_beside_the_result(
    runs: Path, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = recorder_module.processor()
    monkeypatch.setattr(recorder_module, "processor", lambda: "another")
    assert reproduce("file", tmp_path, lake).notes == [f"processor: {here} in the run, another now"]


def test_recorded_settings_are_read_back_exactly(runs: Path) -> None:
    texts = {
        name: recorder_module._text(value)
        for name, value in training_parameters(TrainingFile.of(runs / "flights.csv"), MODEL, CONFIG).items()
    }
    assert recorded_settings(texts, where="a run") == (MODEL, CONFIG)
