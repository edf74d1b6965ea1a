"""The table of features: equal to the features of the tracks, built once for each version, in one commit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

from pipeline.features import build
from pipeline.features.build import build_features
from pipeline.lake.lake import Lake
from pipeline.lake.tables import CLEAN, FEATURES_TABLE
from reentry.errors import ConfigError, LakeError
from reentry.features.groups import ALL_GROUPS, WITHOUT_COMPILER
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, ORBIT_FEATURES, ROBUST_FEATURES, SCHEMA_VERSION
from tests.lake import clean_rows, write_clean
from tests.training_data import short_flights

COLUMNS = [f"feature_{name}" for name in FEATURES]
NONE = frozenset[str]()
"""Groups of the simple features alone, which are fast."""


def features_of(lake: Lake, version: int | None = None) -> pd.DataFrame:
    table = lake.open("features", version).to_pyarrow_table().to_pandas()
    return table.sort_values(["track_id", "step"], ignore_index=True)


def test_the_features_equal_those_of_each_track_bit_for_bit(lake: Lake) -> None:
    flights = short_flights(6)
    report = build_features(lake, write_clean(lake, flights), groups=ALL_GROUPS)
    assert (report.built, report.tracks, report.rows, report.unlabelled) == (True, 6, len(flights), 0)
    found = features_of(lake)
    assert found["schema_version"].unique().tolist() == [SCHEMA_VERSION]
    for track_id, track in flights.groupby("track_id"):
        cells = track[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64)
        rows = found[found["track_id"] == track_id]
        np.testing.assert_array_equal(rows[COLUMNS].to_numpy(), track_features(cells, groups=ALL_GROUPS))
        np.testing.assert_array_equal(rows["reentry_phase"], track["reentry_phase"])


def test_several_processes_give_the_same_rows(lake: Lake, tmp_path: Path) -> None:
    found = []
    for each, processes in ((lake, 1), (Lake(str(tmp_path / "other")), 2)):
        write_clean(each, short_flights(6))
        assert build_features(each, groups=NONE, processes=processes).tracks == 6
        found.append(features_of(each))
    pd.testing.assert_frame_equal(*found)


def reference(text: str) -> int:
    return int(text.removeprefix("lake:features@"))


def test_columns_of_a_group_that_was_not_computed_are_empty_rather_than_zero(lake: Lake) -> None:
    write_clean(lake, short_flights(2))
    build_features(lake, groups=NONE)
    found = features_of(lake)
    assert found[[f"feature_{name}" for name in (*ROBUST_FEATURES, *ORBIT_FEATURES)]].isna().all(axis=None)
    assert found["feature_altitude"].notna().all()


def test_a_version_is_built_once_and_a_new_version_replaces_all_rows(lake: Lake) -> None:
    first_clean = write_clean(lake, short_flights(3))
    first = build_features(lake, groups=NONE)
    again = build_features(lake, groups=NONE)
    assert (first.built, again.built, again.features, again.rows) == (True, False, first.features, first.rows)
    write_clean(lake, short_flights(2, seed=1))
    second = build_features(lake, groups=NONE)
    assert (second.built, second.tracks) == (True, 2)
    assert len(features_of(lake)) == second.rows == len(short_flights(2, seed=1))
    assert build_features(lake, first_clean, groups=NONE).features == first.features
    assert len(features_of(lake, reference(first.features))) == first.rows
    with_more = build_features(lake, groups=WITHOUT_COMPILER)
    assert with_more.built


def test_a_compacted_version_of_the_same_rows_is_not_built_again(lake: Lake) -> None:
    flights = short_flights(40)
    write_clean(lake, flights)
    first = build_features(lake, groups=NONE)
    clean = lake.open(CLEAN.name)
    clean.optimize.z_order(["track_id"])
    clean.vacuum(0, dry_run=False, enforce_retention_duration=False)
    again = build_features(lake, groups=NONE)
    assert (again.built, again.features) == (False, first.features)
    assert again.source != first.source


def test_a_version_whose_files_were_removed_is_built_again(lake: Lake) -> None:
    version = write_clean(lake, short_flights(3))
    first = build_features(lake, version, groups=NONE)
    write_clean(lake, short_flights(2, seed=1))
    build_features(lake, groups=NONE)
    lake.open("features").vacuum(0, dry_run=False, enforce_retention_duration=False)
    again = build_features(lake, version, groups=NONE)
    assert again.built
    assert (again.rows, again.features != first.features) == (first.rows, True)
    assert not build_features(lake, version, groups=NONE).built


def test_the_history_names_the_source_of_each_version(lake: Lake) -> None:
    version = write_clean(lake, short_flights(2))
    build_features(lake, groups=NONE)
    newest = lake.open("features").history(1)[0]
    assert newest["source"] == f"lake:clean@{version}"
    assert newest["git_revision"]


def test_tracks_with_a_row_without_a_label_are_left_out_and_counted(lake: Lake) -> None:
    flights = short_flights(4)
    flights["reentry_phase"] = flights["reentry_phase"].astype("Int8")
    flights.loc[flights.index[flights["track_id"] == 2][5], "reentry_phase"] = pd.NA
    write_clean(lake, flights)
    report = build_features(lake, groups=NONE)
    assert (report.tracks, report.unlabelled) == (3, 1)
    assert set(features_of(lake)["track_id"]) == {0, 1, 3}
    assert "1 tracks without labels left out" in report.summary()


def test_a_table_without_labels_is_an_error_and_commits_nothing(lake: Lake) -> None:
    write_clean(lake, short_flights(3, labels=False))
    with pytest.raises(LakeError, match="no track has labels") as error:
        build_features(lake, groups=NONE)
    assert error.value.got == "3 tracks without"
    assert lake.open("features").version() == 0


def test_an_error_of_a_computation_is_reported_as_it_is(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_compiler(*_: object, **__: object) -> None:
        raise ConfigError("numba is not installed", fix="install it")

    write_clean(lake, short_flights(3))
    monkeypatch.setattr(build, "track_features", without_compiler)
    with pytest.raises(ConfigError, match="numba is not installed") as error:
        build_features(lake)
    assert error.value.fix == "install it"


def test_a_new_feature_becomes_a_new_column_and_earlier_versions_keep_theirs(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = FEATURES_TABLE.schema.remove(FEATURES_TABLE.schema.get_field_index("feature_time_step"))
    DeltaTable.create(lake.uri("features"), removed, partition_by=["bucket"])
    write_clean(lake, short_flights(2))
    assert "feature_time_step" not in features_of(lake, 0)
    report = build_features(lake, groups=NONE)
    assert features_of(lake, reference(report.features))["feature_time_step"].notna().all()
    assert "feature_time_step" not in features_of(lake, 0)


def test_sensors_and_operators_keep_their_exact_pseudonyms(lake: Lake) -> None:
    flights = short_flights(2)
    flights["sensor_id"] = np.where(flights["track_id"] == 0, 2**62 + 1, 2**62 - 1)
    write_clean(lake, flights)
    build_features(lake, groups=NONE)
    assert set(features_of(lake)["sensor_id"]) == {2**62 + 1, 2**62 - 1}


def test_the_rows_of_clean_may_lie_in_any_order(lake: Lake) -> None:
    flights = short_flights(3)
    rows = clean_rows(flights)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    lake.create("clean")
    lake.commit_once("clean", ["shuffled"], lambda *_: shuffled)
    build_features(lake, groups=NONE)
    found = features_of(lake)
    for track_id, track in flights.groupby("track_id"):
        expected = track_features(track[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64), groups=NONE)
        rows_found = found.loc[found["track_id"] == track_id, COLUMNS[:8]]
        np.testing.assert_array_equal(rows_found.to_numpy(), expected[:, :8])
