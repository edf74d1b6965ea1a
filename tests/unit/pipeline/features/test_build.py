"""The table of features: equal to the features of the tracks, built once for each version, in one commit.

Buckets whose tracks did not change are kept, with the same rows as those of a full build.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from pipeline.features import build, kept
from pipeline.features.build import FeatureBuild, build_features
from pipeline.lake.lake import Lake
from pipeline.lake.maintenance import maintain
from pipeline.lake.tables import BUCKETS, CLEAN, FEATURES_TABLE, bucket_of
from pipeline.lake.whole_tracks import rows_of_bucket
from reentry.errors import ConfigError, LakeError
from reentry.features.groups import ALL_GROUPS, WITHOUT_COMPILER
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, ORBIT_FEATURES, ROBUST_FEATURES, SCHEMA_VERSION
from tests.lake import clean_rows, write_clean
from tests.training_data import short_flights

COLUMNS = [f"feature_{name}" for name in FEATURES]
NONE = frozenset[str]()
"""Groups of the simple features alone, which are fast."""


def with_another_track(lake: Lake, flights: pd.DataFrame, track_id: int) -> int:
    """Replace the rows of one track in the table clean by the others of its bucket, and return the bucket."""
    bucket = int(bucket_of(np.array([track_id]))[0])
    others = clean_rows(flights[flights["track_id"] != track_id])
    left = others.filter(pc.equal(others["bucket"], bucket))
    assert lake.rewrite("clean", str(bucket), lambda _table: left)
    return bucket


def files_of_buckets(lake: Lake) -> dict[str, set[str]]:
    files: dict[str, set[str]] = {}
    for path in lake.open("features").to_pyarrow_dataset().files:
        files.setdefault(path.split("/")[0], set()).add(path)
    return files


def assert_equal_to_a_full_build(lake: Lake, folder: Path, report: FeatureBuild) -> None:
    """Compare the newest features with those of a build from the same rows into an empty table."""
    other = Lake(str(folder))
    other.create("clean")
    rows = lake.open("clean").to_pyarrow_table()
    other.commit_once("clean", ["all"], lambda *_: rows)
    full = build_features(other, groups=NONE)
    assert (full.tracks, full.rows, full.unlabelled) == (report.tracks, report.rows, report.unlabelled)
    assert full.computed == BUCKETS
    pd.testing.assert_frame_equal(features_of(lake), features_of(other))


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


def test_only_buckets_with_changed_rows_are_computed_and_the_others_keep_their_files(
    lake: Lake, tmp_path: Path
) -> None:
    flights = short_flights(40)
    flights["reentry_phase"] = flights["reentry_phase"].astype("Int8")
    flights.loc[flights["track_id"].isin([2, 5]), "reentry_phase"] = pd.NA
    write_clean(lake, flights)
    first = build_features(lake, groups=NONE)
    assert (first.computed, first.tracks, first.unlabelled) == (BUCKETS, 38, 2)
    before = files_of_buckets(lake)
    changed = {f"bucket={with_another_track(lake, flights, track)}" for track in (7, 2)}
    assert len(changed) == 2
    second = build_features(lake, groups=NONE)
    assert (second.built, second.computed, second.tracks, second.unlabelled) == (True, 2, 37, 1)
    assert "buckets computed: 2 of 16" in second.summary()
    after = files_of_buckets(lake)
    assert {bucket for bucket in before if before[bucket] != after.get(bucket)} == changed
    assert_equal_to_a_full_build(lake, tmp_path / "full", second)
    again = build_features(lake, groups=NONE)
    assert (again.built, again.computed, again.tracks, again.rows) == (False, 0, 37, second.rows)


def test_a_bucket_without_tracks_loses_its_rows_and_an_earlier_version_gets_them_back(
    lake: Lake, tmp_path: Path
) -> None:
    flights = short_flights(3)
    version = write_clean(lake, flights)
    build_features(lake, groups=NONE)
    with_another_track(lake, flights, 1)
    report = build_features(lake, groups=NONE)
    assert (report.computed, report.tracks, set(features_of(lake)["track_id"])) == (1, 2, {0, 2})
    assert_equal_to_a_full_build(lake, tmp_path / "full", report)
    lake.open("features").vacuum(0, dry_run=False, enforce_retention_duration=False)
    back = build_features(lake, version, groups=NONE)
    assert (back.computed, back.tracks, set(features_of(lake)["track_id"])) == (1, 3, {0, 1, 2})


def test_compacted_tables_keep_their_buckets(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_PART_ROWS", 1)
    flights = short_flights(40)
    write_clean(lake, flights)
    build_features(lake, groups=NONE)
    with_another_track(lake, flights, 7)
    for name in ("clean", "features"):
        lake.open(name).optimize.z_order(["track_id"])
    report = build_features(lake, groups=NONE)
    assert report.computed == 1
    assert_equal_to_a_full_build(lake, tmp_path / "full", report)


@pytest.mark.parametrize("changed", ["code", "groups", "rows of features", "columns"])
def test_a_change_that_is_not_one_of_clean_makes_all_buckets_be_computed(
    lake: Lake, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights = short_flights(3)
    write_clean(lake, flights)
    build_features(lake, groups=NONE)
    with_another_track(lake, flights, 1)
    groups = NONE
    if changed == "code":
        monkeypatch.setattr(kept, "_code", lambda: "another")
    elif changed == "groups":
        groups = WITHOUT_COMPILER
    elif changed == "rows of features":
        bucket = int(bucket_of(np.array([0]))[0])
        assert lake.rewrite("features", str(bucket), lambda table: rows_of_bucket(table, bucket).slice(1))
    else:
        wider = FEATURES_TABLE.schema.append(pa.field("new", pa.int32()))
        monkeypatch.setattr(kept, "FEATURES_TABLE", replace(FEATURES_TABLE, schema=wider))
    report = build_features(lake, groups=groups)
    assert (report.computed, report.tracks) == (BUCKETS, 2)
    assert len(features_of(lake)) == report.rows == len(flights[flights["track_id"] != 1])


def test_a_build_repairs_a_table_that_lost_a_file(lake: Lake, tmp_path: Path) -> None:
    write_clean(lake, short_flights(3))
    build_features(lake, groups=NONE)
    next((Path(lake.location) / "features").glob("bucket=*/*.parquet")).unlink()
    report = build_features(lake, groups=NONE)
    assert (report.built, report.computed) == (True, 1)
    assert_equal_to_a_full_build(lake, tmp_path / "full", report)


def test_files_that_a_maintenance_removes_between_two_attempts_are_written_again(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clean(lake, short_flights(3))
    compute = build._Build._compute

    def maintained(self: build._Build, buckets: list[int]) -> None:
        monkeypatch.undo()
        compute(self, buckets)
        maintain(lake, retention_hours=0, runs=[])

    monkeypatch.setattr(build._Build, "_compute", maintained)
    report = build_features(lake, groups=NONE)
    assert_equal_to_a_full_build(lake, tmp_path / "full", report)


def test_other_code_builds_the_same_version_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clean(lake, short_flights(2))
    build_features(lake, groups=NONE)
    assert not build_features(lake, groups=NONE).built
    monkeypatch.setattr(kept, "_code", lambda: "another")
    report = build_features(lake, groups=NONE)
    assert (report.built, report.computed) == (True, BUCKETS)


def test_a_build_that_loses_to_another_commit_compares_again_what_it_can_keep(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights = short_flights(3)
    write_clean(lake, flights)
    build_features(lake, groups=NONE)
    with_another_track(lake, flights, 1)
    computed: list[int] = []
    compute = build._Build._compute

    def losing(self: build._Build, buckets: list[int]) -> None:
        computed.extend(buckets)
        compute(self, buckets)
        if len(computed) == 1:
            monkeypatch.setattr(build._Build, "_compute", compute)
            build_features(lake, 1, groups=WITHOUT_COMPILER)  # with all three tracks
            monkeypatch.setattr(build._Build, "_compute", losing)

    monkeypatch.setattr(build._Build, "_compute", losing)
    report = build_features(lake, groups=NONE)
    assert sorted(computed) == list(range(BUCKETS))  # the first one is not computed again
    assert (report.computed, report.tracks) == (BUCKETS, 2)
    monkeypatch.undo()
    assert_equal_to_a_full_build(lake, tmp_path / "full", report)


def test_no_file_has_many_more_rows_than_a_part(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    flights = short_flights(60)
    write_clean(lake, flights)
    longest = flights.groupby("track_id").size().max()
    monkeypatch.setattr(build, "_PART_ROWS", 2 * longest)
    report = build_features(lake, groups=NONE)
    rows = pa.table(lake.open("features").get_add_actions(flatten=True))["num_records"].to_pylist()
    assert sum(rows) == report.rows == len(flights)
    assert len(rows) > BUCKETS
    assert max(rows) < 3 * longest


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
