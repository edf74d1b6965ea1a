"""Recording of a training in MLflow, and the failures of MLflow and its store."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from reentry.errors import InputError
from reentry.tracks import fingerprint
from tests.training_data import write_flights
from training.config import ModelConfig, TrainConfig
from training.data.stored import TrainingFile
from training.runs import recorder
from training.runs.mlflow_store import LOCAL_STORE, database, experiment_of, open_store, tracking_uri
from training.runs.recorder import Recorder, lock_hash, recording, training_parameters
from training.runs.runs import Run, all_runs, compare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flights(tmp_path_factory.mktemp("data") / "train.csv", tracks=6)


def newest() -> Run:
    return all_runs()[0]


def train(data: Path, out: Path, *flags: str) -> Any:
    return CliRunner().invoke(app, ["train", str(data), "--out", str(out), "--epochs", "2", *flags])


def run_of(data: Path, out: Path, *flags: str) -> Run:
    result = train(data, out, *flags)
    assert result.exit_code == 0, result.output
    return newest()


def test_a_run_records_everything_that_determines_its_result(data: Path, tmp_path: Path) -> None:
    run = run_of(data, tmp_path, "--seed", "3")
    parameters = run.parameters
    assert run.status == "FINISHED"
    assert (parameters["train.seed"], parameters["train.epochs"], parameters["model.hidden"]) == ("3", "2", "16")
    assert parameters["model.features"] == "altitude_fraction, elapsed_fraction"
    assert parameters["data.file_fingerprint"] == fingerprint(data)
    assert (parameters["data.train_tracks"], parameters["data.validation_tracks"]) == ("5", "1")
    assert parameters["lock_hash"] == hashlib.sha256(recorder.LOCK.read_bytes()).hexdigest()
    assert len(parameters["data.tracks_fingerprint"]) == 64
    assert parameters["git_revision"]
    assert run.metrics["tracks"] == 1.0
    assert run.metrics["onset_rmse"] is not None


def test_the_files_of_a_training_are_recorded_with_its_run(data: Path, tmp_path: Path, store_of_runs: str) -> None:
    for name in ("README.md", "picture.png"):
        (tmp_path / name).write_text("the user's")
    run = run_of(data, tmp_path)
    client = open_store(store_of_runs)
    kept = {file.path for file in client.list_artifacts(run.run_id)}
    assert kept == {"model.ckpt", "model_card.md", "onset_errors.png", "reliability.png"}
    folder = Path(client.get_run(run.run_id).info.artifact_uri)
    file = database(store_of_runs)
    assert file is not None
    assert folder.is_relative_to(file.with_name("files"))
    assert (folder / "model.ckpt").read_bytes() == (tmp_path / "model.ckpt").read_bytes()


def test_the_same_seed_and_data_give_the_same_metrics(data: Path, tmp_path: Path) -> None:
    runs = [run_of(data, tmp_path / str(i), "--seed", seed) for i, seed in enumerate("112")]
    same = compare([run.run_id for run in runs[:2]])
    differing = {name: values for name, values in same.metrics.items() if len(set(values)) > 1}
    assert set(differing) <= {"seconds"}
    assert set(same.parameters) <= {"git_revision"}  # others may commit while the tests run
    different = compare([run.run_id for run in runs])
    assert different.parameters["train.seed"] == ["1", "1", "2"]


def test_a_curve_has_a_value_for_each_epoch(store_of_runs: str) -> None:
    with recording(True, {"a": (1, 2)}, name="curve") as recorder:
        for epoch in range(4):
            recorder.epoch(epoch, {"train_loss": 1.0 / (epoch + 1), "validation_loss": float("nan")})
    client = open_store(store_of_runs)
    history = client.get_metric_history(recorder.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.25)]
    assert newest().parameters == {"a": "1, 2"}
    assert "validation_loss" not in newest().metrics


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_ends_early_has_the_status_failed_or_killed(error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), recording(True, {}):
        raise error
    assert newest().status == status


def test_a_training_without_tracking_does_not_open_the_store(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "open_store", lambda _: pytest.fail("the store was opened"))
    result = train(data, tmp_path, "--no-track")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model.ckpt").is_file()


def test_a_training_without_mlflow_prints_a_warning_and_continues(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch)
    result = train(data, tmp_path)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "recorded" in line]
    assert line == "warning: this run is not recorded: mlflow is not installed; fix: pip install 'reentry[train]'"
    assert (tmp_path / "model.ckpt").is_file()


def test_listing_runs_without_mlflow_is_an_error_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording(True, {}):
        pass
    absent(monkeypatch)
    with pytest.raises(InputError, match="mlflow is not installed") as error:
        all_runs()
    assert error.value.fix == "pip install 'reentry[train]'"


def test_an_unusable_configured_store_stops_the_command_before_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "mlflow.db"
    broken.write_text("this is not a database, and long enough to be recognised as such\n" * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{broken}")
    result = train(data, tmp_path / "out")
    assert isinstance(result.exception, InputError)
    assert result.exception.problem == "the MLflow tracking store is unusable"
    assert "--no-track" in str(result.exception.fix)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def delete_experiment(uri: str) -> None:
    client = open_store(uri)
    client.delete_experiment(experiment_of(client, uri))


def test_a_deleted_experiment_stops_the_command_before_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    delete_experiment(uri)
    result = train(data, tmp_path / "out")
    assert isinstance(result.exception, InputError)
    assert (result.exception.where, result.exception.problem) == (uri, "the MLflow tracking store is unusable")
    assert "deleted" in str(result.exception.got)
    assert "--no-track" in str(result.exception.fix)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_training_works_with_a_deleted_experiment_in_the_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    delete_experiment(tracking_uri())
    caplog.clear()
    with recording(True, {"a": 1}) as recorder:
        recorder.metrics({"b": 2.0})
    (message,) = caplog.messages
    assert message.startswith("this run is not recorded: ")
    assert "\n" not in message


@pytest.mark.parametrize("call", ["create_experiment", "create_run"])
def test_a_read_only_store_is_an_error(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("403: read-only\nmore")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(MlflowClient, call, refused)
    with pytest.raises(InputError, match="unusable") as error, recording(True, {}):
        pass
    assert error.value.got == "403: read-only"


def test_training_works_if_the_local_store_cannot_be_created(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").write_text("a file where the folder is needed")
    with recording(True, {"a": 1}) as recorder:
        recorder.metrics({"b": 2.0})
    (message,) = caplog.messages
    assert message.startswith("this run is not recorded: ")
    assert "\n" not in message


def test_a_store_that_fails_during_a_run_prints_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def log_batch(self, *_: Any, **__: Any) -> None:
            raise OSError("disk full\nmore")

    recorder = Recorder(Failing(), "id")  # type: ignore[arg-type]
    recorder.metrics({"a": 1.0})
    recorder.parameters({"b": 1})
    recorder.end("FINISHED")
    assert caplog.messages == ["recording of this run stopped: disk full"]


def test_the_default_store_is_a_file_under_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert database(tracking_uri()) == tmp_path / LOCAL_STORE
    assert all_runs() == []
    assert not (tmp_path / "artifacts").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org:5000")
    assert tracking_uri() == "http://example.org:5000"
    assert database(tracking_uri()) is None


def test_the_content_of_the_file_is_among_the_parameters(data: Path, tmp_path: Path) -> None:
    other = write_flights(tmp_path / "other.csv", tracks=6, seed=1)
    parameters = [training_parameters(TrainingFile.of(path), ModelConfig(), TrainConfig()) for path in (data, other)]
    assert parameters[0]["data.file_fingerprint"] != parameters[1]["data.file_fingerprint"]


def test_the_lock_hash_is_unknown_without_the_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "LOCK", tmp_path / "requirements.lock")
    assert lock_hash() == "unknown"


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of MLflow fail, as if it were not installed."""
    real = builtins.__import__

    def without(name: str, globals: Mapping[str, object] | None = None, *rest: Any) -> Any:  # noqa: A002
        if name.split(".")[0] == "mlflow" and (globals or {}).get("__name__") == "training.runs.mlflow_store":
            raise ImportError(name)
        return real(name, globals, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
