"""Ingestion of hours: what reaches `raw`, what goes to `quarantine`, and that repeating it changes nothing."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clean.build import build_clean
from pipeline.ingest.ingest import IngestReport, ingest
from pipeline.ingest.landing import Landed, Landing
from pipeline.ingest.read import LARGEST_FILE
from pipeline.lake.lake import Lake
from pipeline.lake.tables import QUARANTINE, RAW, SUPERSEDED
from pipeline.privacy.keys import load_keys
from pipeline.privacy.pseudonyms import OPERATOR, SENSOR, pseudonyms
from pipeline.settings import PipelineSettings
from reentry.errors import ConfigError, LakeError
from tests.landing import HOUR, flat_track, land


def run(settings: PipelineSettings, *hours: str) -> IngestReport:
    return ingest(settings, hours or [HOUR])


def rows(lake: Lake, table: str = "raw") -> pd.DataFrame:
    found = lake.open(table).to_pyarrow_table().to_pandas(integer_object_nulls=True)
    keys = ["object", "row", *(["column"] if table == "quarantine" else [])]
    return found.sort_values(keys, ignore_index=True)


def change(path: Path, **cells: Any) -> None:
    """Replace a cell of row 3 for each named column of a CSV file."""
    table = pd.read_csv(path, dtype=str)
    for name, value in cells.items():
        table.loc[3, name] = value
    table.to_csv(path, index=False)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the landing files that are read."""
    names: list[str] = []
    fetch = Landing.fetch

    def noted(self: Landing, landed: Landed, path: Path) -> str:
        names.append(landed.name)
        return fetch(self, landed, path)

    monkeypatch.setattr(Landing, "fetch", noted)
    return names


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_rows_keep_every_bit_and_sensors_get_pseudonyms(settings: PipelineSettings, lake: Lake, name: str) -> None:
    tables = [flat_track(5, sensor=7), flat_track(9, sensor=8)]
    land(settings, name, *tables)
    report = run(settings)
    assert (report.hours[0].ingested, report.hours[0].rows, report.hours[0].bad_rows) == (1, 40, 0)
    assert not report.failed
    found, expected = rows(lake), pd.concat(tables, ignore_index=True)
    for column in ("timestamp", "track_id", "latitude", "longitude", "altitude", "radiometric_intensity"):
        np.testing.assert_array_equal(found[column].to_numpy(), expected[column].to_numpy())
    assert found["reentry_phase"].tolist() == expected["reentry_phase"].tolist()
    expected_names = pseudonyms(SENSOR, ["7", "8"], load_keys(settings.pseudonym_keys))
    assert found["sensor_id"].tolist() == [expected_names[str(each)] for each in expected["sensor_id"]]
    assert set(found["key_id"]) == {load_keys(settings.pseudonym_keys).current}
    assert found["row"].tolist() == list(range(40))
    assert set(found["hour"]) == {HOUR}


def test_the_same_command_again_changes_no_table(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(1))
    run(settings)
    versions = [lake.open(name).version() for name in (RAW.name, QUARANTINE.name)]
    report = run(settings)
    assert (report.hours[0].known, report.hours[0].ingested) == (1, 0)
    assert [lake.open(name).version() for name in (RAW.name, QUARANTINE.name)] == versions


def test_a_late_file_is_added_to_its_hour(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(1))
    run(settings)
    land(settings, "late.csv", flat_track(2))
    report = run(settings)
    assert (report.hours[0].known, report.hours[0].ingested) == (1, 1)
    assert sorted(set(rows(lake)["track_id"])) == [1, 2]


def test_a_file_with_the_content_of_another_one_adds_no_rows(settings: PipelineSettings, lake: Lake) -> None:
    for name in ("a.csv", "b.csv"):
        land(settings, name, flat_track(1))
    assert run(settings).hours[0].duplicates == 1
    land(settings, "c.csv", flat_track(1))
    report = run(settings).hours[0]
    assert (report.duplicates, report.known) == (1, 2)
    assert set(rows(lake)["object"]) == {f"{HOUR}/a.csv"}
    assert rows(lake, "quarantine")["rule"].tolist() == ["the same content as another file"] * 2


def test_a_file_that_was_uploaded_again_replaces_its_rows_and_closes_its_faults(
    settings: PipelineSettings, lake: Lake
) -> None:
    path = land(settings, "a.csv", flat_track(1), flat_track(2))
    change(path, latitude="95")
    land(settings, "other.csv", flat_track(3))
    run(settings)
    land(settings, "a.csv", flat_track(1, seed=1))
    report = run(settings)
    assert report.hours[0].ingested == 1
    found = rows(lake)
    assert found.groupby("track_id").size().to_dict() == {1: 20, 3: 20}
    np.testing.assert_array_equal(found["altitude"][:20], flat_track(1, seed=1)["altitude"])
    assert rows(lake, "quarantine")["status"].tolist() == [SUPERSEDED]


def test_a_file_that_returns_to_an_earlier_content_has_it_again(settings: PipelineSettings, lake: Lake) -> None:
    for seed in (0, 1, 0):
        land(settings, "a.csv", flat_track(1, seed=seed), flat_track(2 + seed))
        run(settings)
    assert sorted(set(rows(lake)["track_id"])) == [1, 2]
    assert len(rows(lake)) == 40


def test_a_broken_upload_keeps_the_rows_of_the_earlier_one(settings: PipelineSettings, lake: Lake) -> None:
    path = land(settings, "a.csv", flat_track(1))
    run(settings)
    path.write_text("nothing\n1\n")
    assert run(settings).hours[0].unusable == 1
    assert len(rows(lake)) == 20


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("a,b\n1,2\n", "missing columns"),
        ("", "empty file"),
        ("timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity\n", "no rows"),
    ],
)
def test_an_unusable_file_is_in_quarantine_and_the_hour_succeeds(
    settings: PipelineSettings, lake: Lake, content: str, rule: str
) -> None:
    (Path(settings.landing) / HOUR).mkdir()
    (Path(settings.landing) / HOUR / "bad.csv").write_text(content)
    land(settings, "good.csv", flat_track(1))
    report = run(settings)
    assert not report.failed
    assert (report.hours[0].unusable, report.hours[0].ingested) == (1, 1)
    [entry] = rows(lake, "quarantine").to_dict("records")
    assert rule in entry["rule"]
    assert entry["row"] is None
    assert any("bad.csv: in quarantine" in text for text in report.hours[0].warnings)
    assert run(settings).hours[0].known == 2


def test_a_file_of_another_type_is_in_quarantine(settings: PipelineSettings, lake: Lake) -> None:
    path = land(settings, "good.csv", flat_track(1))
    path.with_name("readme.txt").write_text("hello")
    run(settings)
    assert rows(lake, "quarantine")["rule"].tolist() == ["unsupported file type"]


def test_a_column_without_numbers_makes_the_file_unusable_rather_than_the_hour_fail(
    settings: PipelineSettings, lake: Lake
) -> None:
    land(settings, "a.csv", flat_track(1).assign(altitude="high"))
    report = run(settings)
    assert not report.failed
    assert rows(lake, "quarantine")["rule"].tolist() == ["column altitude is not numeric"]


def test_bad_rows_are_in_quarantine_and_the_others_in_raw(settings: PipelineSettings, lake: Lake) -> None:
    path = land(settings, "a.csv", *(flat_track(number) for number in range(1, 6)))
    change(path, latitude="95", altitude="secret-7")
    report = run(settings)
    assert (report.hours[0].bad_rows, report.failed) == (1, False)
    assert len(rows(lake)) == 99
    assert 3 not in set(rows(lake)["row"])
    found = rows(lake, "quarantine")
    assert found["column"].tolist() == ["altitude", "latitude"]
    assert found["rule"].tolist() == ["not a number", "above 90 degrees"]
    assert set(found["track_id"]) == {1}
    assert set(found["row"]) == {3}
    assert set(found["status"]) == {"open"}
    assert "secret" not in found.to_csv()


def test_too_many_bad_rows_fail_the_hour_and_a_higher_limit_lets_it_pass(
    settings: PipelineSettings, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    path = land(settings, "a.csv", flat_track(1, steps=19))
    change(path, latitude="95")
    land(settings, "other.csv", flat_track(2), hour="2026-12-01T09")
    with caplog.at_level(logging.ERROR):
        report = run(settings, HOUR, "2026-12-01T09")
    assert [hour.failed for hour in report.hours] == [True, False]
    assert "too many bad rows" in report.summary()
    assert "more than 5 %" in caplog.text
    assert set(rows(lake)["track_id"]) == {2}
    again = run(replace(settings, bad_row_limit=0.06))
    assert (again.failed, again.hours[0].ingested) == (False, 1)
    assert len(rows(lake, "quarantine")) == 1


def test_exactly_the_limit_is_no_failure(settings: PipelineSettings) -> None:
    path = land(settings, "a.csv", flat_track(1, steps=20))
    change(path, latitude="95")
    assert not run(settings).failed


def test_a_missing_optional_column_is_a_warning_and_its_values_are_unknown(
    settings: PipelineSettings, lake: Lake
) -> None:
    land(settings, "a.csv", flat_track(1).drop(columns="reentry_phase"))
    report = run(settings)
    assert [text.partition(": ")[2] for text in report.hours[0].warnings] == [
        "column reentry_phase is missing, its values are unknown",
        "column operator_id is missing, its values are unknown",
    ]
    assert rows(lake)["reentry_phase"].isna().all()


def test_an_empty_label_is_unknown_and_a_wrong_one_is_a_fault(settings: PipelineSettings, lake: Lake) -> None:
    table = pd.concat([flat_track(number) for number in range(1, 6)]).astype({"reentry_phase": object})
    table.iloc[2, -1], table.iloc[3, -1] = "", 7
    land(settings, "a.csv", table)
    run(settings)
    assert rows(lake, "quarantine")[["row", "column"]].to_numpy().tolist() == [[3, "reentry_phase"]]
    found = rows(lake)
    assert found.loc[found["row"] == 2, "reentry_phase"].isna().all()
    assert len(found) == 99


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_operators_get_pseudonyms_and_unknown_columns_keep_only_fractions(
    settings: PipelineSettings, lake: Lake, name: str
) -> None:
    table = flat_track(1).assign(
        operator_id=["Ada, L."] * 19 + [None], gain=np.linspace(0.5, 1.0, 20), badge=471_108_150_042, note="hello"
    )
    land(settings, name, table)
    report = run(settings)
    assert any("unknown columns: 3" in text for text in report.hours[0].warnings)
    found = rows(lake)
    expected = pseudonyms(OPERATOR, ["Ada, L."], load_keys(settings.pseudonym_keys))["Ada, L."]
    assert found["operator_id"].tolist() == [expected] * 19 + [None]
    extra = json.loads(found["_extra"][0])
    assert extra["gain"] == 0.5
    assert extra["badge"].startswith("hmac:")
    assert extra["note"].startswith("hmac:")
    text = found.drop(columns=["content", "etag"]).to_csv()
    assert not [word for word in ("Ada", "471108150042", "hello") if word in text]


def test_a_sensor_id_that_float64_would_round_is_a_fault(settings: PipelineSettings, lake: Lake) -> None:
    path = land(settings, "a.csv", *(flat_track(number) for number in range(1, 6)))
    change(path, sensor_id=str(2**53 + 2))
    run(settings)
    assert rows(lake, "quarantine")["column"].tolist() == ["sensor_id"]


def test_an_id_in_the_wrong_column_is_not_in_the_preview(settings: PipelineSettings, lake: Lake) -> None:
    path = land(settings, "a.csv", *(flat_track(number) for number in range(1, 6)))
    change(path, latitude="4711.25", altitude="x")
    run(settings)
    [altitude, latitude] = rows(lake, "quarantine")["preview"]
    assert latitude == "9999.99 near an invalid place"
    assert altitude == "'x' near an invalid place"


def test_a_preview_rounds_coordinates_to_half_a_degree(settings: PipelineSettings, lake: Lake) -> None:
    path = land(settings, "a.csv", *(flat_track(number) for number in range(1, 6)))
    change(path, altitude="x", latitude="10.3", longitude="-20.7")
    run(settings)
    assert rows(lake, "quarantine")["preview"].tolist() == ["'x' near 10.5, -20.5 degrees"]


def test_without_keys_nothing_is_read_or_written(settings: PipelineSettings) -> None:
    land(settings, "a.csv", flat_track(1))
    Path(settings.pseudonym_keys.removeprefix("file:")).unlink()
    with pytest.raises(ConfigError, match="keys"):
        run(settings)
    assert not Path(settings.lake).exists()


def test_a_wrong_landing_folder_is_an_error_rather_than_an_empty_hour(settings: PipelineSettings) -> None:
    with pytest.raises(LakeError, match="does not exist"):
        run(replace(settings, landing=settings.landing + "x"))


def test_hidden_files_and_unfinished_uploads_are_left_out(settings: PipelineSettings) -> None:
    land(settings, ".a.csv", flat_track(1))
    land(settings, "_tmp/b.csv", flat_track(1))
    assert run(settings).hours[0].files == 0


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_run(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.csv", flat_track(1))
    land(settings, "b.csv", flat_track(2))
    listed = Landing.objects

    def then_changed(self: Landing, hour: str) -> Any:
        found = listed(self, hour)
        land(settings, "a.csv", flat_track(1), flat_track(3))
        (Path(settings.landing) / HOUR / "b.csv").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Landing, "objects", then_changed)
    assert run(settings).hours[0].changed == 2
    monkeypatch.undo()
    assert run(settings).hours[0].ingested == 1
    assert sorted(set(rows(lake)["track_id"])) == [1, 3]


def test_quotes_in_the_name_of_a_file_do_not_change_the_predicate(settings: PipelineSettings, lake: Lake) -> None:
    name = "a' OR '1'='1.csv"
    for seed in (0, 1):
        land(settings, name, flat_track(1, seed=seed))
        land(settings, "b.csv", flat_track(2))
        run(settings)
    assert rows(lake).groupby("object").size().to_dict() == {f"{HOUR}/{name}": 20, f"{HOUR}/b.csv": 20}


def test_the_rows_of_a_file_do_not_depend_on_when_it_is_ingested(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(2), flat_track(1))
    run(settings)
    other = replace(settings, lake=settings.lake + "2")
    run(other)
    assert rows(lake).equals(rows(Lake(other.lake)))


def test_a_duplicate_gets_its_rows_when_the_other_file_is_replaced(settings: PipelineSettings, lake: Lake) -> None:
    for name in ("a.csv", "b.csv"):
        land(settings, name, flat_track(1))
    run(settings)
    land(settings, "a.csv", flat_track(2))
    assert run(settings).hours[0].ingested == 2
    assert rows(lake).groupby("object")["track_id"].first().to_dict() == {f"{HOUR}/a.csv": 2, f"{HOUR}/b.csv": 1}
    assert set(rows(lake, "quarantine")["status"]) == {SUPERSEDED}
    assert run(settings).hours[0].known == 2


@pytest.mark.parametrize("other_hour", [HOUR, "2026-11-01T08"])
def test_a_duplicate_is_read_once(settings: PipelineSettings, fetched: list[str], other_hour: str) -> None:
    land(settings, "a.csv", flat_track(1), hour=other_hour)
    ingest(settings, [other_hour])
    land(settings, "b.csv", flat_track(1))
    assert run(settings).hours[0].duplicates == 1
    fetched.clear()
    report = run(settings).hours[0]
    assert (report.known, report.duplicates, report.warnings) == (report.files, 0, [])
    assert fetched == []


def test_an_unusable_file_is_read_once(settings: PipelineSettings, fetched: list[str]) -> None:
    land(settings, "a.csv", flat_track(1)).write_text("nothing\n1\n")
    assert run(settings).hours[0].unusable == 1
    fetched.clear()
    assert run(settings).hours[0].known == 1
    assert fetched == []


def test_a_duplicate_of_a_file_that_was_replaced_by_a_broken_one_is_read_once(
    settings: PipelineSettings, lake: Lake, fetched: list[str]
) -> None:
    for name in ("a.csv", "b.csv"):
        path = land(settings, name, flat_track(1))
    run(settings)
    path.with_name("a.csv").write_text("nothing\n1\n")
    run(settings)
    fetched.clear()
    assert run(settings).hours[0].known == 2
    assert fetched == []
    assert set(rows(lake)["object"]) == {f"{HOUR}/a.csv"}


def test_a_duplicate_is_read_again_if_the_run_was_killed_before_the_rows_of_the_other_file(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv", "b.csv"):
        land(settings, name, flat_track(1))
    commit = Lake.commit_once

    def killed(self: Lake, name: str, *rest: Any, **named: Any) -> list[str]:
        if name == RAW.name:
            raise KeyboardInterrupt
        return commit(self, name, *rest, **named)

    monkeypatch.setattr(Lake, "commit_once", killed)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    monkeypatch.setattr(Lake, "commit_once", commit)
    assert rows(lake, "quarantine")["rule"].tolist() == ["the same content as another file"]
    report = run(settings).hours[0]
    assert (report.ingested, report.duplicates, report.known) == (1, 1, 0)
    assert set(rows(lake)["object"]) == {f"{HOUR}/a.csv"}


def test_a_duplicate_in_another_hour_gets_its_rows_after_the_other_file_is_replaced(
    settings: PipelineSettings, lake: Lake
) -> None:
    land(settings, "a.csv", flat_track(1), hour="2026-12-01T07")
    land(settings, "b.csv", flat_track(1), hour="2026-12-01T08")
    hours = ["2026-12-01T07", "2026-12-01T08"]
    ingest(settings, hours)
    assert [each.known for each in ingest(settings, hours).hours] == [1, 1]
    land(settings, "a.csv", flat_track(2), hour="2026-12-01T07")
    assert [each.ingested for each in ingest(settings, hours).hours] == [1, 1]
    assert rows(lake).groupby("hour")["track_id"].first().to_dict() == dict(zip(hours, (2, 1), strict=True))


def test_a_file_that_gets_the_content_of_another_one_loses_its_earlier_rows(
    settings: PipelineSettings, lake: Lake, fetched: list[str]
) -> None:
    land(settings, "a.csv", flat_track(1))
    land(settings, "b.csv", flat_track(2))
    run(settings)
    land(settings, "b.csv", flat_track(1))
    assert run(settings).hours[0].ingested == 1
    assert rows(lake).groupby("object")["track_id"].unique().map(list).to_dict() == {
        f"{HOUR}/a.csv": [1],
        f"{HOUR}/b.csv": [1],
    }
    assert build_clean(lake).rows == 20  # the rows of both files are equal
    fetched.clear()
    assert run(settings).hours[0].known == 2
    assert fetched == []


def test_a_file_that_is_uploaded_again_unchanged_keeps_its_duplicates_without_rows(
    settings: PipelineSettings, lake: Lake, fetched: list[str]
) -> None:
    path = land(settings, "b.csv", flat_track(1))
    run(settings)
    land(settings, "a.csv", flat_track(1))
    run(settings)
    os.utime(path, (1, 1))
    run(settings)
    assert rows(lake).groupby("object").size().to_dict() == {f"{HOUR}/b.csv": 20}
    fetched.clear()
    assert run(settings).hours[0].known == 2
    assert fetched == []


def test_two_files_that_exchange_their_contents_keep_both(settings: PipelineSettings, lake: Lake) -> None:
    land(settings, "a.csv", flat_track(1))
    land(settings, "b.csv", flat_track(2))
    run(settings)
    land(settings, "a.csv", flat_track(2))
    land(settings, "b.csv", flat_track(1))
    run(settings)
    assert rows(lake).groupby("object")["track_id"].first().to_dict() == {f"{HOUR}/a.csv": 2, f"{HOUR}/b.csv": 1}
    assert len(rows(lake)) == 40


def test_a_slow_process_does_not_replace_a_newer_upload(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.csv", flat_track(1))
    committed = Lake.commit_once
    overtaken: list[str] = []

    def then_overtaken(self: Lake, name: str, *arguments: Any, **named: Any) -> list[str]:
        if name == "raw" and not overtaken:
            overtaken.append(name)
            land(settings, "a.csv", flat_track(2))
            run(settings)
        return committed(self, name, *arguments, **named)

    monkeypatch.setattr(Lake, "commit_once", then_overtaken)
    [report] = run(settings).hours
    assert (report.ingested, report.changed) == (0, 1)
    assert set(rows(lake)["track_id"]) == {2}


def test_entries_are_closed_although_the_run_that_replaced_the_rows_was_killed(
    settings: PipelineSettings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(land(settings, "a.csv", *(flat_track(number) for number in range(5))), latitude="95")
    run(settings)
    land(settings, "a.csv", flat_track(1))
    monkeypatch.setattr("pipeline.ingest.ingest._close_entries", lambda *_: None)
    run(settings)
    assert set(rows(lake, "quarantine")["status"]) == {"open"}
    monkeypatch.undo()
    run(settings)
    assert set(rows(lake, "quarantine")["status"]) == {SUPERSEDED}


def test_a_damaged_page_of_an_unknown_column_makes_only_its_file_unusable(
    settings: PipelineSettings, lake: Lake
) -> None:
    path = land(settings, "a.parquet", flat_track(1))
    table = pa.Table.from_pandas(flat_track(1).assign(remark=[f"remark {row:04d}" for row in range(20)]))
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    at = content.index(b"remark 0007")
    path.write_bytes(content[:at] + b"REMARK" + content[at + 6 :])
    land(settings, "b.csv", flat_track(2), hour="2026-12-01T09")
    report = run(settings, HOUR, "2026-12-01T09")
    assert [hour.unusable for hour in report.hours] == [1, 0]
    assert set(rows(lake)["track_id"]) == {2}


def test_links_and_special_files_are_left_out_with_a_warning(
    settings: PipelineSettings, lake: Lake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe would block the ingestion, and a link to a folder would fail it."""
    folder = land(settings, "a.csv", flat_track(1)).parent
    elsewhere = tmp_path / "elsewhere.csv"
    flat_track(2).to_csv(elsewhere, index=False)
    (folder / "link.csv").symlink_to(elsewhere)
    (folder / "folder").symlink_to(tmp_path)
    (folder / "nothing.csv").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe.csv")
    report = run(settings)
    assert (report.hours[0].files, report.hours[0].ingested) == (1, 1)
    assert set(rows(lake)["track_id"]) == {1}
    assert caplog.text.count("left out") == 4


def test_a_file_with_too_many_rows_goes_to_quarantine_before_it_fills_the_memory(
    settings: PipelineSettings, lake: Lake
) -> None:
    path = land(settings, "bomb.parquet", flat_track(1))
    row = pq.read_table(path).slice(0, 1)
    many = pa.table({name: pa.repeat(row[name][0], LARGEST_FILE + 1) for name in row.column_names})
    pq.write_table(many, path)
    land(settings, "a.csv", flat_track(2))
    assert path.stat().st_size < 2**20
    report = run(settings)
    assert (report.hours[0].ingested, report.hours[0].unusable, report.failed) == (1, 1, False)
    (entry,) = rows(lake, "quarantine").to_dict("records")
    assert "more than" in entry["rule"]


@pytest.mark.parametrize("name", [b"\xff.csv", b"a\nerror: forged.csv", b"\x1b[2J.csv"])
def test_a_name_that_is_not_printable_is_left_out_with_a_warning(
    settings: PipelineSettings, lake: Lake, caplog: pytest.LogCaptureFixture, name: bytes
) -> None:
    path = land(settings, "a.csv", flat_track(1))
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/" + name))
    land(settings, "b.csv", flat_track(2))
    run(settings)
    assert set(rows(lake)["track_id"]) == {2}
    assert "not printable" in caplog.text
