"""Rotation of pseudonyms: values, joins, repetition after an interruption, earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.privacy import rekey as module
from pipeline.privacy.keys import add_key, as_text, load_keys, new_keys
from pipeline.privacy.pseudonyms import EXTRA_TEXT, pseudonyms
from pipeline.privacy.rekey import rekey
from reentry.errors import ConfigError
from tests.landing import flat_track, land
from tests.unit.pipeline.privacy.conftest import ALICE, BOB, ONE, TWO, Filled

TABLES = ("raw", "clean", "features")


def test_all_rows_get_the_pseudonyms_of_the_new_key(filled: Filled) -> None:
    before = {table: filled.rows(table) for table in TABLES}
    report = rekey(filled.settings, new_key=True)
    keys = load_keys(filled.settings.pseudonym_keys)
    assert report.added
    assert report.key_id == keys.current == keys.ids[1]
    assert report.rows == {table: len(rows) for table, rows in before.items()}
    for table in TABLES:
        rows = filled.rows(table)
        assert set(rows["key_id"]) == {keys.current}
        assert set(rows["sensor_id"]) == {filled.pseudonym(ONE), filled.pseudonym(TWO)}
        assert set(rows["operator_id"]) == {filled.operator(ALICE), filled.operator(BOB)}
        # Nothing else has changed, not even the number of rows of each sensor.
        others = [name for name in rows.columns if name not in ("sensor_id", "operator_id", "key_id", "_extra")]
        order = ["track_id", "timestamp"]
        assert rows.sort_values(order, ignore_index=True)[others].equals(
            before[table].sort_values(order, ignore_index=True)[others]
        )
    extra = json.loads(filled.rows("raw").sort_values(["object", "row"])["_extra"].iloc[3])
    assert extra == {"note": f"hmac:{pseudonyms(EXTRA_TEXT, [str(TWO)], keys)[str(TWO)]}"}


def test_rows_that_are_ingested_after_a_rotation_join_with_older_rows(filled: Filled) -> None:
    rekey(filled.settings, new_key=True)
    land(filled.settings, "later.csv", flat_track(9, sensor=ONE), hour="2026-12-01T09")
    ingest(filled.settings, ["2026-12-01T09"])
    rows = filled.rows("raw")
    assert set(rows.loc[rows["track_id"].isin([1, 9]), "sensor_id"]) == {filled.pseudonym(ONE)}
    assert rekey(filled.settings).rows == {}


def test_a_repeated_rotation_without_a_new_key_changes_nothing(filled: Filled) -> None:
    rekey(filled.settings, new_key=True)
    versions = {table: filled.lake.open(table).version() for table in TABLES}
    report = rekey(filled.settings)
    assert not report.added
    assert report.rows == {}
    assert {table: filled.lake.open(table).version() for table in TABLES} == versions


@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_a_killed_rotation_is_finished_by_the_command_without_a_new_key(
    filled: Filled, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    rewrite = Lake.rewrite

    def killing(*arguments: Any, **options: Any) -> bool:
        nonlocal commits
        commits += 1
        if commits == killed_at:
            raise KeyboardInterrupt
        return rewrite(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "rewrite", killing)
        with pytest.raises(KeyboardInterrupt):
            rekey(filled.settings, new_key=True)
    report = rekey(filled.settings)
    keys = load_keys(filled.settings.pseudonym_keys)
    assert not report.added
    assert len(keys.keys) == 2
    for table in TABLES:
        rows = filled.rows(table)
        assert set(rows["key_id"]) == {keys.current}
        assert set(rows["sensor_id"]) == {filled.pseudonym(ONE), filled.pseudonym(TWO)}


def test_a_key_is_added_although_an_earlier_rotation_was_not_finished(filled: Filled) -> None:
    leaked = add_key(filled.settings.pseudonym_keys)
    report = rekey(filled.settings, new_key=True, purge=True)
    keys = load_keys(filled.settings.pseudonym_keys)
    assert report.added
    assert report.key_id == keys.current == keys.ids[2]
    assert keys.keys[:2] == leaked.keys
    for table in TABLES:
        rows = filled.rows(table)
        assert set(rows["key_id"]) == {keys.current}
        assert set(rows["sensor_id"]) == {filled.pseudonym(ONE), filled.pseudonym(TWO)}
    assert rekey(filled.settings).old_files == {}


def test_rows_of_two_older_keys_are_rotated_at_once(filled: Filled) -> None:
    add_key(filled.settings.pseudonym_keys)
    land(filled.settings, "later.csv", flat_track(9, sensor=ONE), hour="2026-12-01T09")
    ingest(filled.settings, ["2026-12-01T09"])
    add_key(filled.settings.pseudonym_keys)
    assert len(set(filled.rows("raw")["key_id"])) == 2
    rekey(filled.settings)
    rows = filled.rows("raw")
    assert set(rows["sensor_id"]) == {filled.pseudonym(ONE), filled.pseudonym(TWO)}


def test_another_secret_is_refused_before_anything_is_written(filled: Filled, tmp_path: Path) -> None:
    Path(filled.settings.pseudonym_keys.removeprefix("file:")).write_text(as_text(new_keys(tmp_path / "other.json")))
    version = filled.lake.open("raw").version()
    with pytest.raises(ConfigError) as caught:
        rekey(filled.settings, new_key=True)
    assert caught.value.problem == "rows have pseudonyms of an unknown key"
    assert filled.lake.open("raw").version() == version
    assert len(load_keys(filled.settings.pseudonym_keys).keys) == 1


def test_files_with_older_pseudonyms_are_left_unless_they_are_purged(filled: Filled) -> None:
    before = filled.lake.open("features").version()
    kept = rekey(filled.settings, new_key=True)
    assert set(kept.old_files) == set(TABLES)
    assert len(filled.rows("features", before)) == len(filled.rows("features"))
    purged = rekey(filled.settings, purge=True)
    assert purged.old_files == kept.old_files
    with pytest.raises(Exception, match=r"No such file|not found"):
        filled.rows("features", before)
    assert module.TABLES_WITH_PSEUDONYMS == TABLES
    assert rekey(filled.settings).old_files == {}
