"""Commits that happen once, versions of tables, and the errors of a lake."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lake.lake import Lake
from pipeline.lake.object_store import storage_options
from pipeline.lake.race import race
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, TABLES, bucket_of
from reentry.errors import InputError, LakeError


def entries(*rules: str) -> pa.Table:
    """Rows of `quarantine`, one for each rule."""
    texts = dict.fromkeys(("hour", "object", "etag", "content", "status"), "x")
    rows = [{**texts, "row": None, "track_id": None, "column": None, "preview": None, "rule": rule} for rule in rules]
    return pa.Table.from_pylist(rows, schema=TABLES["quarantine"].schema)


def rules(lake: Lake, version: int | None = None) -> list[str]:
    return sorted(lake.open("quarantine", version).to_pyarrow_table().column("rule").to_pylist())


def test_a_key_is_committed_once(lake: Lake) -> None:
    assert lake.commit_once("quarantine", ["a", "b"], lambda new, _: entries(*new)) == ["a", "b"]
    assert lake.commit_once("quarantine", ["b", "c"], lambda new, _: entries(*new)) == ["c"]
    assert lake.commit_once("quarantine", ["a", "b", "c"], lambda new, _: entries(*new)) == []
    assert rules(lake) == ["a", "b", "c"]
    assert lake.committed("quarantine", ["a", "d"]) == {"a"}


def test_concurrent_writers_of_overlapping_keys_lose_and_double_nothing(lake: Lake) -> None:
    lake.create("quarantine")
    writers = 6
    start = threading.Barrier(writers)

    def write(number: int) -> list[str]:
        own = Lake(lake.location)
        start.wait()
        return own.commit_once("quarantine", ["shared", f"own {number}"], lambda new, _: entries(*new))

    with ThreadPoolExecutor(writers) as pool:
        committed = [key for keys in pool.map(write, range(writers)) for key in keys]
    expected = sorted(["shared", *(f"own {number}" for number in range(writers))])
    assert sorted(committed) == expected
    assert rules(lake) == expected


def test_a_fence_stops_writers_that_began_before_it(lake: Lake) -> None:
    assert lake.fences("quarantine", "raw") == {"quarantine": 0, "raw": 0}
    before = lake.fences("quarantine")
    lake.fence("quarantine")  # which creates the table
    with pytest.raises(LakeError) as caught:
        lake.commit_once("quarantine", ["a"], lambda new, _: entries(*new), fences=before)
    assert "rows were erased" in caught.value.problem
    assert rules(lake) == []
    now = lake.fences("quarantine", "raw")
    assert now == {"quarantine": 1, "raw": 0}
    assert lake.commit_once("quarantine", ["a"], lambda new, _: entries(*new), fences=now) == ["a"]
    lake.fence("quarantine")
    assert lake.commit_once("quarantine", ["a"], lambda new, _: entries(*new), fences=now) == []  # nothing to write
    assert rules(lake) == ["a"]


def test_a_fence_that_comes_while_rows_are_written_stops_their_commit(lake: Lake) -> None:
    fences = lake.fences("quarantine")

    def rows_of(new: Sequence[str], _table: DeltaTable) -> pa.Table:
        Lake(lake.location).fence("quarantine")
        return entries(*new)

    with pytest.raises(LakeError, match="rows were erased"):
        lake.commit_once("quarantine", ["a"], rows_of, fences=fences)
    assert rules(lake) == []
    assert lake.fences("quarantine") == {"quarantine": 1}


def test_concurrent_fences_are_all_counted(lake: Lake) -> None:
    lake.create("quarantine")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _number: Lake(lake.location).fence("quarantine"), range(4)))
    assert lake.fences("quarantine") == {"quarantine": 4}


def test_an_additional_name_is_found_but_does_not_stop_a_key(lake: Lake) -> None:
    lake.commit_once("quarantine", ["a"], lambda new, _: entries(*new), also={"a": "content of a"})
    assert lake.committed("quarantine", ["content of a"]) == {"content of a"}
    assert lake.commit_once("quarantine", ["b"], lambda new, _: entries(*new), also={"b": "content of a"}) == ["b"]


def test_replaced_rows_are_gone_and_an_earlier_version_still_has_them(lake: Lake) -> None:
    lake.commit_once("quarantine", ["a"], lambda _new, _: entries("old", "old", "kept"))
    before = lake.open("quarantine").version()
    lake.commit_once("quarantine", ["b"], lambda _new, _: entries("old"), replace=lambda _new, _: "rule = 'old'")
    assert rules(lake) == ["kept", "old"]
    assert rules(lake, before) == ["kept", "old", "old"]


def test_concurrent_creations_are_one_commit(lake: Lake) -> None:
    start = threading.Barrier(8)

    def create(_: int) -> int:
        own = Lake(lake.location)
        start.wait()
        return own.create("quarantine").version()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(create, range(8))) == {0}
    assert [path.name for path in (Path(lake.location) / "quarantine" / "_delta_log").glob("*.json")] == [
        f"{0:020}.json"
    ]


def test_concurrent_updates_and_commits_all_take_effect(lake: Lake) -> None:
    lake.commit_once("quarantine", ["a"], lambda _new, _: entries(*(f"old {number}" for number in range(4))))
    start = threading.Barrier(8)

    def change(number: int) -> None:
        own = Lake(lake.location)
        start.wait()
        if number < 4:
            own.update("quarantine", {"status": "closed"}, f"rule = 'old {number}'")
        else:
            own.commit_once("quarantine", [f"key {number}"], lambda new, _: entries(*new))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))
    table = lake.open("quarantine").to_pandas()
    assert sorted(table.loc[table["status"] == "closed", "rule"]) == [f"old {number}" for number in range(4)]
    assert len(table) == 8


def test_a_key_that_is_not_chosen_stays_new(lake: Lake) -> None:
    for chosen, left in (("a", "b"), ("b", "a")):
        keys = lake.commit_once(
            "quarantine",
            ["a", "b"],
            lambda new, _: entries(*new),
            choose=lambda new, _, c=chosen: [c] if c in new else [],
        )
        assert keys == [chosen]
        assert (left in lake.committed("quarantine", [left])) == (chosen == "b")


def test_a_table_that_was_never_written_is_an_error_with_a_fix(lake: Lake) -> None:
    with pytest.raises(LakeError) as raised:
        lake.open("clean")
    assert "no such table" in raised.value.problem
    assert raised.value.fix
    assert lake.committed("clean", ["a"]) == set()


def test_a_version_that_does_not_exist_is_an_error_that_names_those_that_do(lake: Lake) -> None:
    lake.create("clean")
    with pytest.raises(LakeError) as raised:
        lake.open("clean", 99)
    assert raised.value.problem == "there is no such version"
    assert (raised.value.expected, raised.value.got) == ("0 to 0", "99")


def test_a_damaged_log_is_one_error_in_one_line(lake: Lake) -> None:
    lake.create("clean")
    log = Path(lake.location) / "clean" / "_delta_log" / "00000000000000000000.json"
    log.write_text("{no JSON")
    with pytest.raises(LakeError) as raised:
        lake.open("clean")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("location", ["gs://bucket/lake", "s3:///lake", "http://host/lake"])
def test_another_kind_of_location_is_refused(location: str) -> None:
    with pytest.raises(LakeError, match="unknown kind of lake"):
        Lake(location)


def test_plain_http_is_allowed_only_for_an_endpoint_that_uses_it() -> None:
    assert storage_options({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})["allow_http"] == "true"
    assert "allow_http" not in storage_options({"AWS_ENDPOINT_URL": "https://store"})
    assert "allow_http" not in storage_options({})


def test_a_folder_passes_the_race_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    report = race(str(tmp_path / "store"))
    assert report.passed
    assert (report.same_key, report.rows) == (1, 9)
    assert list((tmp_path / "store").iterdir()) == []


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_track_has_a_bucket(track_id: int) -> None:
    assert 0 <= int(bucket_of(np.array([track_id]))[0]) < BUCKETS


def test_consecutive_tracks_are_spread_evenly_over_the_buckets() -> None:
    counts = np.bincount(bucket_of(np.arange(16_000)), minlength=BUCKETS)
    assert counts.min() > 950
    assert counts.max() < 1050


def test_a_reference_names_a_table_and_a_version() -> None:
    assert TableReference.parse("lake:clean@12") == TableReference("clean", 12)
    assert TableReference.parse("lake:features") == TableReference("features")
    assert str(TableReference.parse("lake:clean@12")) == "lake:clean@12"


@pytest.mark.parametrize("text", ["lake:", "lake:nothing", "lake:clean@", "lake:clean@-1", "lake:clean@1 ", "clean@1"])
def test_another_reference_is_refused_with_the_tables_named(text: str) -> None:
    with pytest.raises(InputError) as raised:
        TableReference.parse(text)
    assert "clean" in str(raised.value.expected)
