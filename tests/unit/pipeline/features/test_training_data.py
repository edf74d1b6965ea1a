"""A version of the table of features as training data: the same network as from a file of the same tracks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.features import training_data
from pipeline.features.build import build_features
from pipeline.features.training_data import LakeTrainingData
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from reentry.errors import InputError, LakeError
from reentry.features.groups import ALL_GROUPS, WITHOUT_COMPILER
from reentry.tracks import write_tracks
from tests.lake import write_clean
from tests.training_data import short_flights
from training.checkpoint import load_checkpoint
from training.config import ModelConfig, TrainConfig
from training.data.samples import read_labelled
from training.train import train_file, train_tracks

CONFIG = TrainConfig(epochs=2, seed=1, accelerator="cpu")
NEWEST = TableReference("features")
USED = [0, 1, 2, 4, 5, 6, 7, 8, 9]
"""Ids of the tracks that are not held out for the gate."""


@pytest.fixture
def built(lake: Lake) -> Lake:
    """A lake with ten tracks and their features, without those of the orbit filter."""
    write_clean(lake, short_flights(10))
    build_features(lake, groups=WITHOUT_COMPILER)
    return lake


def used_flights(path: Path) -> Path:
    """Write the tracks that are not held out."""
    flights = short_flights(10)
    write_tracks(path, flights[flights["track_id"].isin(USED)])
    return path


def ids(data: LakeTrainingData) -> list[int]:
    with data.open(frozenset()) as labelled:
        return [sample.track.track_id for sample in labelled.samples]


@pytest.mark.parametrize("names", [("altitude_fraction", "elapsed_fraction"), ("log_dynamic_pressure", "altitude")])
def test_training_on_the_table_equals_training_on_a_file_of_its_tracks_bit_for_bit(
    built: Lake, tmp_path: Path, names: tuple[str, ...]
) -> None:
    model = ModelConfig(hidden=4, features=names)
    path = used_flights(tmp_path / "flights.csv")
    lake_run = train_tracks(LakeTrainingData.of(built, NEWEST), tmp_path / "lake", model, CONFIG)
    file_run = train_file(path, tmp_path / "file", model, CONFIG)
    from_lake, from_file = (load_checkpoint(run.checkpoint) for run in (lake_run, file_run))
    assert from_lake.metrics == from_file.metrics
    assert lake_run.trained.history == file_run.trained.history
    for name, weight in from_file.model.state_dict().items():
        assert torch.equal(from_lake.model.state_dict()[name], weight), name
    same = {"model": None, "data_file_fingerprint": "", "data_table": None, "trained_rows": None}
    assert replace(from_lake, **same) == replace(from_file, **same)
    assert from_lake.data_file_fingerprint == ""
    assert from_lake.data_table == {"name": "features", "version": 1, "id": str(built.open("features").metadata().id)}
    assert from_file.data_table is None
    assert lake_run.read.rows == file_run.read.rows
    assert "lake:features@1" in (tmp_path / "lake/model_card.md").read_text()


def test_the_samples_equal_those_of_a_file_whatever_the_layout_of_the_table(built: Lake, tmp_path: Path) -> None:
    expected = read_labelled(used_flights(tmp_path / "flights.csv"), groups=frozenset({"robust"}))
    built.open("features").optimize.z_order(["altitude"])  # other files, with the rows in another order
    for version in (1, 2):
        with LakeTrainingData.of(built, TableReference("features", version)).open(frozenset({"robust"})) as data:
            assert len(data.samples) == data.report.tracks == len(expected)
            for sample, other in zip(data.samples, expected, strict=True):
                assert sample.track.track_id == other.track.track_id
                assert torch.equal(sample.features, other.features)
                assert torch.equal(sample.phase, other.phase)
                np.testing.assert_array_equal(sample.track.measurements, other.track.measurements)


def test_features_of_unused_groups_are_zero_as_in_samples_of_a_file(built: Lake) -> None:
    with LakeTrainingData.of(built, NEWEST).open(frozenset()) as data:
        features = data.samples[0].features
    assert features[:, :8].any()
    assert not features[:, 8:].any()


def test_a_group_that_was_not_computed_is_an_error_with_its_fix(built: Lake) -> None:
    data = LakeTrainingData.of(built, NEWEST)
    with pytest.raises(LakeError, match="features were not computed") as error, data.open(ALL_GROUPS):
        pass
    assert error.value.got is not None
    assert "feature_orbit_known" in error.value.got
    assert "reentry features build" in str(error.value.fix)


def test_features_of_another_schema_version_are_rejected(built: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "SCHEMA_VERSION", 99)
    data = LakeTrainingData.of(built, NEWEST)
    with pytest.raises(LakeError, match="other schema version") as error, data.open(frozenset()):
        pass
    assert (error.value.expected, error.value.where) == ("99", "lake:features@1")


def test_a_condition_selects_tracks_of_which_every_row_satisfies_it(built: Lake) -> None:
    assert ids(LakeTrainingData.of(built, NEWEST)) == USED
    assert ids(LakeTrainingData.of(built, NEWEST, "track_id % 3 = 0")) == [0, 6, 9]
    flights = short_flights(10)
    flights = flights[flights["track_id"].isin(USED)]
    lasting = flights.groupby("track_id")["timestamp"].max()
    limit = lasting.median()
    expected = sorted(lasting.index[lasting < limit])
    assert ids(LakeTrainingData.of(built, NEWEST, f"timestamp < {limit!r}")) == expected
    with pytest.raises(InputError, match="no track satisfies the condition"):  # NULL is not true
        LakeTrainingData.of(built, NEWEST, "operator_id <> 3")


@pytest.mark.parametrize("where", ["", "track = 1", "track_id <", "x" * 3_000])
def test_an_invalid_condition_is_an_error(built: Lake, where: str) -> None:
    with pytest.raises(InputError, match="condition"):
        LakeTrainingData.of(built, NEWEST, where)


def test_the_facts_of_a_version_stay_the_same_when_the_table_changes(built: Lake) -> None:
    facts = LakeTrainingData.of(built, NEWEST, "track_id < 9").facts()
    assert (facts["data.path"], facts["data.version"], facts["data.filter"]) == ("lake:features@1", 1, "track_id < 9")
    assert facts["data.built_from"] == "lake:clean@1"
    write_clean(built, short_flights(3))
    build_features(built, groups=frozenset())
    assert LakeTrainingData.of(built, TableReference("features", 1), "track_id < 9").facts() == facts
    newer = LakeTrainingData.of(built, NEWEST).facts()
    assert (newer["data.version"], newer["data.built_from"]) == (2, "lake:clean@2")
    assert newer["data.schema_hash"] == facts["data.schema_hash"]


def test_only_the_table_of_features_is_trained_on(built: Lake) -> None:
    with pytest.raises(InputError, match="not a table to train on") as error:
        LakeTrainingData.of(built, TableReference("clean", 1))
    assert "reentry features build" in str(error.value.fix)


def test_a_version_whose_files_were_removed_is_an_error(built: Lake) -> None:
    write_clean(built, short_flights(3))
    build_features(built, groups=frozenset())
    built.open("features").vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(LakeError, match="files of this version have been removed"):
        LakeTrainingData.of(built, TableReference("features", 1))
