"""Erasure and rotation beside a writer whose files are not committed yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from deltalake.transaction import AddAction

from pipeline.lake.lake import NewFiles
from pipeline.lake.storage import Storage
from pipeline.privacy import erase as erasure
from pipeline.privacy import rekey as rotation
from pipeline.privacy.erase import erase
from pipeline.privacy.rekey import rekey
from reentry.errors import LakeError
from tests.unit.pipeline.privacy.conftest import ONE, Filled

PART = "part-00000-written.parquet"


@pytest.fixture
def written(filled: Filled) -> Path:
    """A data file of raw with rows of sensor one, which is not committed yet."""
    (source,) = [path for path in Path(filled.settings.lake, "raw").rglob("*.parquet") if path.stat().st_size > 5000][
        :1
    ]
    path = source.with_name(PART)
    path.write_bytes(source.read_bytes())
    return path


def age(path: Path) -> None:
    os.utime(path, (0, 0))


def run(command: str, filled: Filled) -> None:
    if command == "erase":
        erase(filled.settings, "sensor", str(ONE))
    else:
        rekey(filled.settings, new_key=True, purge=True)


def commit(filled: Filled, path: Path) -> None:
    hour = path.parent.name
    action = AddAction(
        path=f"{hour}/{path.name}",
        size=path.stat().st_size,
        partition_values={"hour": hour.removeprefix("hour=")},
        modification_time=0,
        data_change=True,
        stats="{}",
    )
    filled.lake.commit_files_once("raw", "late", lambda _table: NewFiles(add=[action]))


def test_an_erasure_does_not_delete_a_file_that_a_writer_may_still_commit(filled: Filled, written: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(LakeError, match="a writer is at work"):
            erase(filled.settings, "sensor", str(ONE), dry_run=dry_run)
    commit(filled, written)
    erase(filled.settings, "sensor", str(ONE))
    assert not written.exists()
    assert set(filled.rows("raw")["track_id"]) == {3, 4}


def test_a_rotation_does_not_purge_a_file_that_a_writer_may_still_commit(filled: Filled, written: Path) -> None:
    with pytest.raises(LakeError, match="a writer is at work"):
        rekey(filled.settings, new_key=True, purge=True)
    assert written.exists()
    age(written)
    rekey(filled.settings, purge=True)
    assert not written.exists()


@pytest.mark.parametrize("command", ["erase", "rekey"])
def test_a_file_that_is_committed_while_files_are_searched_is_not_deleted(
    filled: Filled, written: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(written)
    module: Any = {"erase": erasure, "rekey": rotation}[command]
    read_batches = module.read_batches

    def read_while_committing(storage: Storage, file: Any, columns: Any) -> Any:
        # The rows were rewritten, so this is the search for files to delete.
        if file.path.endswith(PART) and filled.lake.open("raw").version() > 1:
            commit(filled, written)
        return read_batches(storage, file, columns)

    monkeypatch.setattr(module, "read_batches", read_while_committing)
    if command == "erase":
        with pytest.raises(LakeError, match="added to raw during the erasure"):
            erase(filled.settings, "sensor", str(ONE))
    else:
        rekey(filled.settings, new_key=True, purge=True)
    assert written.exists()
    assert filled.rows("raw")["track_id"].isin([1]).any()


@pytest.mark.parametrize("command", ["erase", "rekey"])
def test_a_file_that_is_committed_before_the_deletion_is_not_deleted(
    filled: Filled, written: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(written)

    def mark_while_committing(*_arguments: Any, **_options: Any) -> list[str]:
        commit(filled, written)
        return []

    monkeypatch.setattr(f"pipeline.privacy.{command}.mark_runs", mark_while_committing)
    with pytest.raises(LakeError, match="a writer has committed 1 files that would be deleted"):
        run(command, filled)
    assert len(filled.rows("raw")) > 0
    assert written.exists()


@pytest.mark.parametrize("command", ["erase", "rekey"])
def test_a_file_that_a_writer_was_killed_while_writing_is_deleted_after_an_hour(
    filled: Filled, written: Path, command: str
) -> None:
    staged = written.rename(f"{written}#1")
    staged.write_bytes(staged.read_bytes()[:1000])  # its footer is missing
    with pytest.raises(LakeError, match="a writer is at work"):
        run(command, filled)
    assert staged.exists()
    age(staged)
    run(command, filled)
    assert not staged.exists()


def test_an_erasure_beside_a_writer_that_has_begun_meanwhile_is_no_proof(
    filled: Filled, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(written)
    delete = Storage.delete

    def delete_while_writing(storage: Storage, file: Any) -> None:
        delete(storage, file)
        Path(f"{written}#2").touch()

    monkeypatch.setattr(Storage, "delete", delete_while_writing)
    with pytest.raises(LakeError, match="a writer is at work"):
        erase(filled.settings, "sensor", str(ONE))


def test_a_file_that_is_committed_during_the_deletion_is_an_error(
    filled: Filled, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(written)
    delete = Storage.delete

    def delete_while_committing(storage: Storage, file: Any) -> None:
        if file.path.endswith(PART):
            commit(filled, written)
        delete(storage, file)

    monkeypatch.setattr(Storage, "delete", delete_while_committing)
    with pytest.raises(LakeError, match="needs 1 files that a writer committed during their deletion") as caught:
        erase(filled.settings, "sensor", str(ONE))
    assert str(caught.value.got).endswith(PART)
    filled.lake.open("raw").repair()
    assert set(filled.rows("raw")["track_id"]) == {3, 4}
