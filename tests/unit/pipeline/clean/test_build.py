"""Whole tracks from the rows of several files, built again only where rows changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.clean.build import build_clean
from pipeline.ingest.ingest import ingest
from pipeline.lake.export import export_tracks
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import RESOLVED, bucket_of
from pipeline.settings import PipelineSettings
from reentry.errors import InputError, LakeError
from reentry.tracks import read_tracks, tracks_table
from tests.landing import HOUR, flat_track, land

LATER = "2026-12-01T09"


def cleaned(lake: Lake, version: int | None = None) -> pd.DataFrame:
    table = lake.open("clean", version).to_pyarrow_table().to_pandas(integer_object_nulls=True)
    return table.sort_values(["track_id", "step"], ignore_index=True)


def open_rules(lake: Lake) -> list[str]:
    table = lake.open("quarantine").to_pandas()
    return sorted(table.loc[table["status"] == "open", "rule"])


def test_clean_tracks_equal_those_that_the_reader_of_files_repairs(settings: PipelineSettings, lake: Lake) -> None:
    broken = pd.concat([flat_track(number) for number in range(4)], ignore_index=True)
    broken = broken.drop(index=[5, 6]).iloc[::-1]  # a gap, in reverse order
    broken.iloc[7, broken.columns.get_loc("altitude")] = np.nan
    broken = pd.concat([broken, broken.iloc[:2]])  # and two rows twice
    path = land(settings, "a.csv", broken)
    ingest(settings, [HOUR])
    report = build_clean(lake)
    with read_tracks(path) as file:
        expected = tracks_table(list(file)).sort_values(["track_id", "timestamp"], ignore_index=True)
        assert report.repairs == {kind.value: count for kind, count in file.report.repairs.items()}
    found = cleaned(lake)
    assert (report.tracks, report.rows) == (4, len(expected)) == (4, 80)
    for column in expected.columns.drop("sensor_id"):
        np.testing.assert_array_equal(found[column].to_numpy(float), expected[column].to_numpy(float))
    raw = lake.open("raw").to_pandas()
    assert set(found["sensor_id"]) == set(raw["sensor_id"])  # exact, although measurements round it
    assert found["bucket"].tolist() == bucket_of(found["track_id"].to_numpy()).tolist()


def test_a_track_whose_rows_come_in_two_hours_is_whole(settings: PipelineSettings, lake: Lake) -> None:
    track = flat_track(1, steps=30)
    land(settings, "b.csv", track[15:], hour=HOUR)
    land(settings, "a.csv", track[:15], hour=LATER)
    ingest(settings, [HOUR, LATER])
    build_clean(lake)
    found = cleaned(lake)
    np.testing.assert_array_equal(found["timestamp"], track["timestamp"])
    assert found["step"].tolist() == list(range(30))


def test_building_again_without_new_rows_writes_nothing(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(1))
    ingest(settings, [HOUR])
    first = build_clean(lake)
    second = build_clean(lake)
    assert (second.version, second.up_to_date) == (first.version, True)
    assert not first.up_to_date
    assert "up to date" in second.summary()


def test_only_tracks_with_new_rows_are_written_again(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", *(flat_track(number) for number in range(39)), flat_track(39)[:10])
    ingest(settings, [HOUR])
    assert build_clean(lake).tracks == 40
    land(settings, "late.csv", flat_track(100), flat_track(39)[10:])
    ingest(settings, [HOUR])
    assert build_clean(lake).tracks == 2
    assert cleaned(lake).groupby("track_id").size().to_dict() == dict.fromkeys((*range(40), 100), 20)


def test_new_tracks_are_added_without_a_file_being_written_again(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", *(flat_track(number) for number in range(20)))
    ingest(settings, [HOUR])
    build_clean(lake)
    before = set(lake.open("clean").file_uris())
    land(settings, "b.csv", *(flat_track(number) for number in range(20, 40)))
    ingest(settings, [HOUR])
    build_clean(lake)
    assert before < set(lake.open("clean").file_uris())


def test_storing_raw_in_other_files_is_no_change(settings: PipelineSettings, lake: Lake) -> None:
    for name in ("a.csv", "b.csv"):
        land(settings, name, flat_track(ord(name[0])))
        ingest(settings, [HOUR])
    build_clean(lake)
    before = lake.open("raw").version()
    lake.open("raw").optimize.compact()
    assert lake.open("raw").version() > before
    assert build_clean(lake).up_to_date
    land(settings, "c.csv", flat_track(7))
    ingest(settings, [HOUR])
    assert build_clean(lake).tracks == 1


def test_all_tracks_are_built_again_if_files_of_the_earlier_version_were_removed(
    settings: PipelineSettings, lake: Lake
) -> None:
    for name in ("a.csv", "b.csv"):
        land(settings, name, flat_track(ord(name[0])))
        ingest(settings, [HOUR])
    build_clean(lake)
    lake.open("raw").optimize.compact()
    lake.open("raw").vacuum(0, dry_run=False, enforce_retention_duration=False)
    land(settings, "c.csv", flat_track(7))
    ingest(settings, [HOUR])
    assert build_clean(lake).tracks == 3
    assert set(cleaned(lake)["track_id"]) == {7, ord("a"), ord("b")}


def test_other_rules_build_everything_again(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.csv", flat_track(1))
    ingest(settings, [HOUR])
    build_clean(lake)
    monkeypatch.setattr("pipeline.clean.build.RULES", 2)
    monkeypatch.setattr("pipeline.clean.changes.RULES", 2)
    assert build_clean(lake).tracks == 1
    assert build_clean(lake).up_to_date


@pytest.mark.parametrize("most", [2_000, 1])
@pytest.mark.parametrize("seed", range(3))
def test_building_step_by_step_equals_building_at_once(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch, seed: int, most: int
) -> None:
    monkeypatch.setattr("pipeline.clean.build.MOST_TRACKS", most)
    random = np.random.default_rng(seed)
    for _ in range(6):
        for _ in range(random.integers(1, 4)):
            numbers = random.choice(12, random.integers(1, 4), replace=False)
            parts = [flat_track(number)[slice(*sorted(random.choice(21, 2, replace=False)))] for number in numbers]
            land(settings, f"{random.integers(4)}.csv", *parts, hour=str(random.choice([HOUR, LATER])))
        ingest(settings, [HOUR, LATER])
        if random.random() < 0.3:
            lake.open("raw").optimize.compact()
        build_clean(lake)
    other = Lake(settings.lake + "-at-once")
    shutil.copytree(Path(lake.location) / "raw", Path(other.location) / "raw")
    build_clean(other)
    pd.testing.assert_frame_equal(cleaned(lake), cleaned(other))
    assert len(cleaned(lake)) > 20


def test_a_track_that_left_raw_leaves_clean_and_earlier_versions_keep_it(
    settings: PipelineSettings, lake: Lake
) -> None:
    land(settings, "a.csv", flat_track(1), flat_track(2))
    ingest(settings, [HOUR])
    before = build_clean(lake).version
    land(settings, "a.csv", flat_track(2))
    ingest(settings, [HOUR])
    build_clean(lake)
    assert set(cleaned(lake)["track_id"]) == {2}
    assert set(cleaned(lake, before)["track_id"]) == {1, 2}


def test_an_earlier_version_of_raw_can_be_built(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(1))
    ingest(settings, [HOUR])
    version = lake.open("raw").version()
    land(settings, "b.csv", flat_track(2))
    ingest(settings, [HOUR])
    build_clean(lake)
    assert build_clean(lake, version).raw_version == version
    assert set(cleaned(lake)["track_id"]) == {1}
    build_clean(lake)
    assert set(cleaned(lake)["track_id"]) == {1, 2}


def test_a_track_beyond_repair_is_in_quarantine_once_until_late_rows_repair_it(
    settings: PipelineSettings, lake: Lake
) -> None:
    land(settings, "a.csv", flat_track(1)[:1], flat_track(2))
    ingest(settings, [HOUR])
    report = build_clean(lake)
    assert (report.tracks, report.set_aside) == (1, 1)
    assert open_rules(lake) == ["fewer than 2 rows"]
    land(settings, "other.csv", flat_track(3))
    ingest(settings, [HOUR])
    build_clean(lake)
    assert open_rules(lake) == ["fewer than 2 rows"]
    land(settings, "late.csv", flat_track(1)[1:])
    ingest(settings, [HOUR])
    build_clean(lake)
    assert open_rules(lake) == []
    assert set(lake.open("quarantine").to_pandas()["status"]) == {RESOLVED}
    assert set(cleaned(lake)["track_id"]) == {1, 2, 3}


def test_an_unlabelled_track_has_no_labels_and_others_keep_theirs(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(1))
    land(settings, "b.csv", flat_track(2).drop(columns="reentry_phase"))
    ingest(settings, [HOUR])
    build_clean(lake)
    found = cleaned(lake)
    assert found.loc[found["track_id"] == 2, "reentry_phase"].isna().all()
    assert found.loc[found["track_id"] == 1, "reentry_phase"].tolist() == flat_track(1)["reentry_phase"].tolist()


def test_a_filled_step_has_the_operator_of_the_row_before_it(settings: PipelineSettings, lake: Lake) -> None:
    track = flat_track(1).assign(operator_id=["x"] * 10 + ["y"] * 10).drop(index=[9, 10])
    land(settings, "a.csv", track)
    ingest(settings, [HOUR])
    build_clean(lake)
    operators = cleaned(lake)["operator_id"].tolist()
    assert len(operators) == 20
    assert operators == [operators[0]] * 11 + [operators[-1]] * 9
    assert operators[0] != operators[-1]


def test_without_raw_the_error_names_the_table(lake: Lake) -> None:
    with pytest.raises(LakeError) as raised:
        build_clean(lake)
    assert str(raised.value.where).endswith("/raw")


def test_an_export_is_a_file_that_the_reader_takes(settings: PipelineSettings, lake: Lake, tmp_path: Path) -> None:
    land(settings, "a.csv", *(flat_track(number) for number in range(10)))
    ingest(settings, [HOUR])
    build_clean(lake)
    exported = export_tracks(lake, TableReference.parse("lake:clean"), tmp_path / "out.parquet")
    assert (exported.tracks, exported.rows, str(exported.reference)) == (10, 200, "lake:clean@1")
    with read_tracks(tmp_path / "out.parquet", labelled=True) as file:
        assert file.report.clean
        assert not file.report.repairs
        found = {track.track_id: track for track in file}
    for number in range(10):
        np.testing.assert_array_equal(found[number].timestamp, flat_track(number)["timestamp"])
        np.testing.assert_array_equal(found[number].measurements[:, 3], flat_track(number)["altitude"])


def test_only_clean_is_exported(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only tracks of the table clean"):
        export_tracks(lake, TableReference.parse("lake:raw"), tmp_path / "out.csv")


def test_a_slow_build_does_not_bring_an_older_version_of_raw_back(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.csv", flat_track(1))
    ingest(settings, [HOUR])
    build_clean(lake)
    land(settings, "b.csv", flat_track(2))
    ingest(settings, [HOUR])
    committed = Lake.commit_once
    overtaken: list[str] = []

    def then_overtaken(self: Lake, name: str, *arguments: Any, **named: Any) -> list[str]:
        if name == "clean" and not overtaken:
            overtaken.append(name)
            land(settings, "c.csv", flat_track(3))
            ingest(settings, [HOUR])
            build_clean(Lake(lake.location))
        return committed(self, name, *arguments, **named)

    monkeypatch.setattr(Lake, "commit_once", then_overtaken)
    assert build_clean(lake).up_to_date
    assert set(cleaned(lake)["track_id"]) == {1, 2, 3}


def test_entries_are_closed_although_the_build_that_repaired_the_track_was_killed(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.csv", flat_track(1)[:1])
    ingest(settings, [HOUR])
    build_clean(lake)
    land(settings, "late.csv", flat_track(1)[1:])
    ingest(settings, [HOUR])
    monkeypatch.setattr("pipeline.clean.build._close_entries", lambda _lake: None)
    build_clean(lake)
    assert open_rules(lake) == ["fewer than 2 rows"]
    monkeypatch.undo()
    assert build_clean(lake).up_to_date
    assert open_rules(lake) == []
