"""Retraining on a lake, and the gate: planted challengers, verdicts, versions, and what happens twice."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import cli
from export.config import ExportConfig
from export.pipeline import export_checkpoint
from pipeline.features.build import build_features
from pipeline.features.held_out import SHARE, is_held_out
from pipeline.features.training_data import LakeTrainingData
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import EXTRA, RAW
from pipeline.retraining import retrain
from pipeline.retraining.contestants import checkpoint_contestant
from pipeline.retraining.gate import run_gate
from pipeline.retraining.severity import severities
from pipeline.retraining.verdicts import record_verdict
from pipeline.settings import PipelineSettings
from reentry.runtime.files import sha256_of
from reentry.tracks.write import write_tracks
from registry.labels import Record
from registry.open import open_store
from registry.promotion import promote
from tests.exporting import deciding, exporting, remembered_exports
from tests.lake import write_clean
from tests.landing import HOUR, flat_track, pipeline_settings
from tests.training_data import short_flights
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.identity import DataIdentity
from training.runs.mlflow_store import open_store as open_runs
from training.runs.mlflow_store import quiet, tracking_uri
from training.runs.runs import Run, all_runs
from training.train import CHECKPOINT_NAME, TrainReport, train_tracks


@pytest.fixture(scope="module", autouse=True)
def exports_once() -> Iterator[None]:
    with remembered_exports():
        yield


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two versions of features, without orbit features; in the second one, 130 newer flights follow after a month."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    old, new = short_flights(130, seed=3), short_flights(130, seed=4)
    new["track_id"] += 1_000
    new["timestamp"] += 30 * 86_400.0
    for flights in (old, pd.concat([old, new])):
        write_clean(lake, flights)
        build_features(lake, groups=frozenset())
    return lake


def shifted(bias: float) -> Checkpoint:
    """Make a network whose onsets are late or early: with a bias of 0 by 0.2 s, with 20 by a second."""
    made = deciding(ModelConfig(hidden=8))
    with torch.no_grad():
        made.model.head.bias.fill_(bias)
    return made


@dataclass(frozen=True)
class Place:
    """A repository with a version in production, and the lake."""

    lake: Lake
    repository: Path
    folder: Path

    def run(self, command: str, *arguments: str | Path, status: int) -> Any:
        common = ["--lake", self.lake.location, "--repository", str(self.repository), "--json"]
        result = CliRunner().invoke(cli.app, [command, *map(str, arguments), *common])
        assert result.exit_code == status, result.output + repr(result.exception)
        return json.loads(result.stdout)

    def checkpoint(self, bias: float, **changes: Any) -> Path:
        path = self.folder / f"{bias}.ckpt"
        save_checkpoint(path, replace(shifted(bias), **changes))
        return path

    def verdicts(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.lake.open("verdicts").to_pyarrow_table().to_pylist()
        return rows

    def train(self, *flags: str, status: int = 0) -> Any:
        settings = self.folder / "training.toml"
        settings.write_text("[train]\nepochs = 6\n[model]\nhidden = 8\n")
        folders = ("--out", self.folder / "new", "--training", settings)
        return self.run("retrain", "--reason", "data", *folders, *flags, status=status)


@pytest.fixture
def place(lake: Lake, tmp_path: Path) -> Place:
    """Version 1 is a network with onsets that are 0.2 s wrong. The tables of features are shared, verdicts are not."""
    config = exporting(tmp_path, shifted(0.0))
    export_checkpoint(config)
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "features").symlink_to(Path(lake.location) / "features")
    return Place(Lake(str(tmp_path / "lake")), Path(config.repository), tmp_path)


def test_no_training_on_the_lake_sees_a_track_that_is_held_out(lake: Lake) -> None:
    data = LakeTrainingData.of(lake, TableReference("features"))
    ids = []
    for chosen in (data, replace(data, held_out=True)):
        with chosen.open(frozenset()) as labelled:
            ids.append(np.array([sample.track.track_id for sample in labelled.samples]))
    assert not is_held_out(ids[0]).any()
    assert is_held_out(ids[1]).all()
    assert len(ids[0]) + len(ids[1]) == 260
    every = np.arange(100_000)
    assert abs(is_held_out(every).mean() - SHARE) < 0.005


def test_a_worse_challenger_is_refused_whatever_the_reason(place: Place) -> None:
    found = place.run("gate", place.checkpoint(20.0), "--reason", "drift", status=3)
    assert (found["verdict"], found["allowed"], found["table"]) == ("worse", False, "lake:features@2")
    table, window = found["comparisons"][:2]
    assert (table["data"], window["data"], table["worse"]) == ("table", "window", True)
    assert table["challenger"] == pytest.approx(1.0, abs=0.2)
    assert table["champion"] == pytest.approx(0.25, abs=0.1)
    assert 0.4 < table["low"] < table["difference"] < table["high"] < 1.1
    assert 20 <= window["tracks"] < table["tracks"]
    (row,) = place.verdicts()
    assert (row["verdict"], row["allowed"], row["command"], row["reason"]) == ("worse", False, "gate", "drift")
    assert row["tracks"] == table["tracks"]
    assert row["difference"] == pytest.approx(table["difference"])
    assert row["window_tracks"] == found["window_tracks"] == window["tracks"]


def test_an_equal_challenger_replaces_production_only_after_drift(place: Place) -> None:
    same = place.folder / "model.ckpt"
    found = place.run("gate", same, status=3)
    assert (found["verdict"], found["allowed"]) == ("same", False)
    assert place.run("gate", same, "--reason", "schedule", status=3)["verdict"] == "same"
    assert place.run("gate", same, "--reason", "drift", status=0)["allowed"]


def test_a_better_challenger_is_allowed_and_its_verdict_is_recorded_once(place: Place) -> None:
    production = place.checkpoint(20.0)
    for _ in range(2):
        found = place.run("gate", "production", "--against", production, status=0)
        assert (found["verdict"], found["allowed"], found["challenger"]) == ("better", True, "version 1")
    assert [(row["champion"], row["verdict"]) for row in place.verdicts()] == [(sha256_of(production), "better")]


def test_a_better_verdict_without_a_window_has_a_warning(place: Place) -> None:
    models = [checkpoint_contestant(path) for path in (place.folder / "model.ckpt", place.checkpoint(20.0))]
    table, long_ago = TableReference("features"), dt.datetime(1900, 1, 1, tzinfo=dt.UTC)
    result = run_gate(*models, place.lake, table=table, settings=PipelineSettings(), now=long_ago)
    assert (result.verdict, result.window_tracks) == ("better", None)
    assert "warning: 47 of 47 tracks are dated after the present" in result.summary()
    assert "the window of 7 days was not compared: it has 0 of 20 tracks" in result.as_dict()["note"]
    record_verdict(place.lake, result, command="gate")
    assert [row["window_tracks"] for row in place.verdicts()] == [None]


def test_an_old_version_of_the_table_is_scored_beside_the_newest_window(place: Place) -> None:
    found = place.run("gate", place.checkpoint(20.0), "--table", "lake:features@1", status=3)
    assert found["table"] == "lake:features@1"
    sizes = {each["data"]: each["tracks"] for each in found["comparisons"] if each["group"] == "all"}
    held_out = is_held_out(np.array([*range(130), *range(1_000, 1_130)]))
    assert sizes == {"table": held_out[:130].sum(), "window": held_out[130:].sum()}


def test_tracks_that_trained_a_model_are_left_out(place: Place) -> None:
    data = replace(LakeTrainingData.of(place.lake, TableReference("features")), held_out=True)
    with data.open(frozenset()) as labelled:
        identity = DataIdentity.of(sample.track for sample in labelled.samples)
    some = frozenset(identity.flight_fingerprints[:7])
    found = place.run("gate", place.checkpoint(20.0, trained_flights=some), status=3)
    assert found["comparisons"][0]["tracks"] == len(identity.track_ids) - 7
    every = place.checkpoint(20.0, trained_flights=frozenset(identity.flight_fingerprints))
    result = CliRunner().invoke(
        cli.app, ["gate", str(every), "--lake", place.lake.location, "--repository", str(place.repository)]
    )
    assert "too few labelled tracks that neither model was trained on" in str(result.exception)


def newest() -> Run:
    return all_runs()[0]


def test_a_better_model_is_promoted_and_repeating_the_retraining_changes_nothing(place: Place) -> None:
    report = place.train("--promote")
    assert report["gate"]["verdict"] == "better"
    assert (report["version"], report["promoted"], report["refused"]) == (2, True, False)
    change = Record.of(open_store(place.repository)).labels.history[-1]
    assert (change.version, change.reason) == (2, "gate: better on lake:features@2, retrained for data")

    run = newest()
    assert run.parameters["retrain.reason"] == "data"
    for name in ("logistic_regression", "boosted_trees"):
        assert 0.0 <= run.metrics[f"baseline.{name}.onset_rmse"] < 5.0  # type: ignore[operator]
        assert run.metrics[f"baseline.{name}.tracks"] == run.metrics["tracks"]
    with quiet():
        tags = open_runs(tracking_uri()).get_run(run.run_id).data.tags
    assert (tags["gate.verdict"], tags["gate.allowed"], tags["gate.table"]) == ("better", "True", "lake:features@2")
    assert tags["checkpoint_sha256"] == sha256_of(place.folder / "new" / "model.ckpt")
    assert "still the newest version" in place.train("--if-due")["not_due"]

    first, path, hashes = load_checkpoint(place.folder / "new" / "model.ckpt"), place.folder / "again", set()
    assert not is_held_out(np.array(first.validation_tracks)).any()
    for _ in range(2):  # with the settings of production, which its recorded checkpoint has
        report = place.run("retrain", "--reason", "schedule", "--out", path, "--promote", status=0)
        assert (report["gate"]["verdict"], report["promoted"]) == ("same", False)
        hashes.add(sha256_of(path / "model.ckpt"))
    again = load_checkpoint(path / "model.ckpt")
    assert len(hashes) == 1
    assert (again.model_config, again.train_config) == (first.model_config, first.train_config)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in first.model.state_dict().items())
    recorded = [(row["command"], row["reason"]) for row in sorted(place.verdicts(), key=lambda row: row["time"])]
    assert recorded == [("retrain", "data"), ("retrain", "schedule")]


@pytest.fixture(scope="module")
def trained(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    """A training, for the tests that need one with a certain result."""
    data = LakeTrainingData.of(lake, TableReference("features"))
    return train_tracks(data, tmp_path_factory.mktemp("trained"), ModelConfig(hidden=8), TrainConfig(epochs=2))


def train_gives(monkeypatch: pytest.MonkeyPatch, report: TrainReport, checkpoint: Checkpoint) -> None:
    """Let `retrain` take the files of a finished training, with another checkpoint."""

    def finished(_data: object, out: Path, *_settings: object, **_options: object) -> TrainReport:
        shutil.copytree(report.checkpoint.parent, out, dirs_exist_ok=True)
        save_checkpoint(out / CHECKPOINT_NAME, checkpoint)
        return replace(report, checkpoint=out / CHECKPOINT_NAME)

    monkeypatch.setattr(retrain, "train_tracks", finished)
    monkeypatch.setattr(retrain, "baseline_metrics", lambda *_: {})


def test_a_worse_model_is_neither_installed_nor_promoted(
    place: Place, trained: TrainReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_gives(monkeypatch, trained, shifted(20.0))
    report = place.train("--promote", status=3)
    assert (report["gate"]["verdict"], report["refused"], report["version"]) == ("worse", True, None)
    assert open_store(place.repository).versions() == [1]
    assert "still the newest version" in place.train("--if-due", "--promote")["not_due"]  # refused, so not again


def test_nothing_is_promoted_if_production_changes_during_the_training(
    place: Place, trained: TrainReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_gives(monkeypatch, trained, trained.trained.checkpoint)

    def meanwhile(config: ExportConfig) -> Any:
        promote(open_store(place.repository), 2)
        return export_checkpoint(config)

    export_checkpoint(ExportConfig(checkpoint=place.folder / "model.ckpt", repository=place.repository))
    monkeypatch.setattr(retrain, "export_checkpoint", meanwhile)
    with pytest.raises(AssertionError, match="another version went into production"):
        place.train("--promote", status=0)
    labels = Record.of(open_store(place.repository)).labels
    assert (labels.production, labels.candidate) == (2, 3)
    assert not place.lake.exists("verdicts")  # the model has not been compared with version 2


def test_a_retraining_whose_export_failed_is_still_due(
    place: Place, trained: TrainReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_config: ExportConfig) -> Any:
        raise OSError("No space left on device")

    train_gives(monkeypatch, trained, trained.trained.checkpoint)
    monkeypatch.setattr(retrain, "export_checkpoint", full)
    with pytest.raises(AssertionError, match="No space left on device"):
        place.train("--if-due", "--export")
    monkeypatch.setattr(retrain, "export_checkpoint", export_checkpoint)
    assert not place.lake.exists("verdicts")
    assert place.train("--if-due", "--export")["version"] == 2
    assert [row["command"] for row in place.verdicts()] == ["retrain"]
    assert "still the newest version" in place.train("--if-due", "--export")["not_due"]


def test_the_first_model_of_a_repository_goes_into_production(
    place: Place, trained: TrainReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(place.repository / "reentry_lstm" / "1")
    (place.repository / "reentry_lstm" / "labels.json").unlink()
    train_gives(monkeypatch, trained, trained.trained.checkpoint)
    report = place.train("--export")
    assert (report["gate"], report["version"], report["promoted"]) == (None, 1, True)


def test_the_severity_of_simulated_tracks_reaches_the_gate(tmp_path: Path) -> None:
    settings = pipeline_settings(tmp_path)
    folder = Path(settings.landing) / HOUR
    folder.mkdir(parents=True)
    write_tracks(folder / "simulated.parquet", flat_track(1), origin={"severity": 2, "seed": 0})
    write_tracks(folder / "measured.parquet", flat_track(2))
    ingest(settings, [HOUR])
    lake = Lake(settings.lake)
    assert severities(lake, np.array([1, 2, 3])) == {1: "2"}
    extra = lake.open(RAW.name).to_pyarrow_table(columns=["track_id", EXTRA]).to_pylist()
    assert {(row["track_id"], row[EXTRA]) for row in extra} == {(1, '{"severity": 2}'), (2, None)}
