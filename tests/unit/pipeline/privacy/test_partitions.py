"""Changes of rows in the newest version of a table, beside other writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage
from pipeline.privacy.data_files import lives_of_files
from pipeline.privacy.partitions import change_rows
from pipeline.privacy.subject import Mask
from reentry.errors import LakeError
from tests.landing import HOUR, flat_track, land
from tests.unit.pipeline.privacy.conftest import ONE, Filled


def track_one(rows: pa.Table) -> Mask:
    return pc.equal(rows["track_id"], 1).to_numpy()


def without(rows: pa.Table, chosen: Mask) -> pa.Table:
    return rows.filter(pa.array(~chosen))


def remove_track_one(lake: Lake, table: str = "raw") -> int:
    return change_rows(lake, table, ["track_id"], track_one, without, {"reason": "test"})


def test_a_commit_that_comes_between_is_not_lost(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Lake._write
    attempts = 0

    def late(*arguments: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            with monkeypatch.context() as patch:
                patch.setattr(Lake, "_write", staticmethod(write))
                land(filled.settings, "more.csv", flat_track(8, sensor=ONE), flat_track(1, sensor=ONE, start=1.8e9))
                ingest(filled.settings, [HOUR])
        write(*arguments)

    monkeypatch.setattr(Lake, "_write", staticmethod(late))
    assert remove_track_one(filled.lake) == 40
    assert attempts == 2
    assert sorted(set(filled.rows("raw")["track_id"])) == [2, 3, 4, 8]


def test_only_partitions_with_a_chosen_row_are_written(filled: Filled) -> None:
    land(filled.settings, "more.csv", flat_track(8, sensor=ONE), hour="2026-12-01T09")
    ingest(filled.settings, ["2026-12-01T09"])
    before = set(filled.lake.open("raw").file_uris())
    assert remove_track_one(filled.lake) == 20
    kept = before & set(filled.lake.open("raw").file_uris())
    assert [uri for uri in kept if "hour=2026-12-01T09" in uri]
    assert not [uri for uri in kept if f"hour={HOUR}" in uri]


def test_the_log_names_the_partition_and_no_value_of_the_rows(filled: Filled) -> None:
    remove_track_one(filled.lake)
    table = filled.lake.open("raw")
    log = Path(filled.settings.lake) / "raw" / "_delta_log" / f"{table.version():020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    (commit,) = [each["commitInfo"] for each in actions if "commitInfo" in each]
    assert commit["operationParameters"]["predicate"] == f"hour = '{HOUR}'"
    assert commit["reason"] == "test"
    for action in actions:
        if "add" in action:
            statistics = json.loads(action["add"]["stats"])
            assert (statistics["minValues"], statistics["maxValues"]) == ({}, {})


def test_a_table_without_chosen_rows_gets_no_version(filled: Filled) -> None:
    remove_track_one(filled.lake, "clean")
    version = filled.lake.open("clean").version()
    assert remove_track_one(filled.lake, "clean") == 0
    assert filled.lake.open("clean").version() == version


def test_a_missing_table_has_no_rows(filled: Filled, tmp_path: Path) -> None:
    assert remove_track_one(Lake(str(tmp_path / "empty"))) == 0


def test_a_damaged_log_is_an_error_that_names_the_file(filled: Filled) -> None:
    log = Path(filled.settings.lake) / "raw" / "_delta_log" / "00000000000000000001.json"
    log.write_text("{no JSON\n")
    with pytest.raises(LakeError) as caught:
        lives_of_files(Storage(filled.settings.lake), "raw")
    assert str(caught.value.where).endswith("00000000000000000001.json")
