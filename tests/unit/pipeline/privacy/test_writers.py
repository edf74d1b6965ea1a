"""Erasure and rotation beside writers that are at work, were killed, or commit at the worst moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from deltalake.transaction import AddAction

from pipeline.clean.build import build_clean
from pipeline.features import build as features_module
from pipeline.features.build import build_features
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake, NewFiles
from pipeline.lake.storage import Storage
from pipeline.privacy import erase as erasure
from pipeline.privacy import rekey as rotation
from pipeline.privacy.erase import erase
from pipeline.privacy.rekey import rekey
from reentry.errors import LakeError
from tests.landing import flat_track, land
from tests.unit.pipeline.privacy.conftest import ONE, TWO, Filled

PART = "part-00000-written.parquet"
LATER = "2026-12-01T09"
THREE = 4711003
"""Id of a sensor that has one track, 9, in a later hour."""
KILLED_INGESTION = """
import os, signal, sys, time
from pathlib import Path
from pipeline.ingest import ingest as module
from pipeline.settings import PipelineSettings

lake, landing, keys, hour = sys.argv[1:]
read = module.read_spools

def killed_behind_the_rows(paths, schema):
    def rows():
        yield from read(paths, schema)
        # The writer has all rows, and the commit comes after them.
        while not list(Path(lake, "raw").rglob("*.parquet#*")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return module.pa.RecordBatchReader.from_batches(schema, rows())

module.read_spools = killed_behind_the_rows
module.ingest(PipelineSettings(lake=lake, landing=landing, pseudonym_keys=keys), [hour])
"""


@pytest.fixture
def written(filled: Filled) -> Path:
    """A data file of raw with rows of sensor one, which is not committed yet."""
    source = max(Path(filled.settings.lake, "raw").rglob("*.parquet"), key=lambda path: path.stat().st_size)
    path = source.with_name(PART)
    path.write_bytes(source.read_bytes())
    return path


def run(command: str, filled: Filled) -> None:
    if command == "erase":
        erase(filled.settings, "sensor", str(ONE))
    else:
        rekey(filled.settings, new_key=True, purge=True)


def commit(filled: Filled, path: Path, fences: dict[str, int] | None = None) -> None:
    hour = path.parent.name
    action = AddAction(
        path=f"{hour}/{path.name}",
        size=path.stat().st_size,
        partition_values={"hour": hour.removeprefix("hour=")},
        modification_time=0,
        data_change=True,
        stats="{}",
    )
    filled.lake.commit_files_once("raw", "late", lambda _table: NewFiles(add=[action]), fences=fences)


def ingest_later(filled: Filled) -> object:
    return ingest(filled.settings, [LATER])


def clean_later(filled: Filled) -> object:
    return build_clean(filled.lake)


def features_later(filled: Filled) -> object:
    return build_features(filled.lake, groups=frozenset())


@pytest.mark.parametrize(
    ("table", "before", "writer"),
    [
        ("raw", [], ingest_later),
        ("clean", [ingest_later], clean_later),
        ("features", [ingest_later, clean_later], features_later),
    ],
)
def test_a_writer_that_has_read_its_rows_cannot_commit_them_after_an_erasure(
    filled: Filled,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    before: list[Callable[[Filled], object]],
    writer: Callable[[Filled], object],
) -> None:
    land(filled.settings, "third.csv", flat_track(9, sensor=THREE), hour=LATER)
    for step in before:
        step(filled)
    ready, erased = threading.Event(), threading.Event()
    write = Lake._write
    writers: list[threading.Thread] = []

    def write_after_the_erasure(target: Any, rows: Any, predicate: Any, properties: Any) -> None:
        if threading.current_thread() in writers and Path(target.table_uri).name == table:
            if not ready.is_set():
                # All rows are read into memory, as a large batch is.
                rows = rows.read_all() if hasattr(rows, "read_all") else rows
            ready.set()
            assert erased.wait(120)
        write(target, rows, predicate, properties)

    def work() -> None:
        writers.append(threading.current_thread())
        writer(filled)

    compute = features_module._Build._compute

    def compute_before_the_erasure(build: Any, buckets: list[int]) -> None:
        compute(build, buckets)
        ready.set()
        assert erased.wait(120)

    monkeypatch.setattr(Lake, "_write", staticmethod(write_after_the_erasure))
    monkeypatch.setattr(features_module._Build, "_compute", compute_before_the_erasure)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work)
        try:
            assert ready.wait(120)
            erase(filled.settings, "sensor", str(THREE), delete_waiting=True)
        finally:
            erased.set()
        error = result.exception()
    if table == "raw":
        assert error is None  # the landing file is gone, so the ingestion leaves it out
    else:
        assert isinstance(error, LakeError)
        assert "rows were erased" in error.problem
    for name in ("raw", "clean", "features"):
        assert 9 not in set(filled.rows(name)["track_id"])
    again = erase(filled.settings, "sensor", str(THREE))  # deletes the file that the writer could not commit
    assert again.rows == {}
    stored = [pq.read_table(path, columns=["track_id"]) for path in Path(filled.settings.lake).rglob("*.parquet")]
    assert 9 not in {track for part in stored for track in part["track_id"].to_pylist()}
    writer(filled)
    assert 9 not in set(filled.rows(table)["track_id"])


@pytest.mark.parametrize("command", ["erase", "rekey"])
def test_a_file_that_a_writer_has_not_committed_is_deleted_at_once_and_never_committed(
    filled: Filled, written: Path, command: str
) -> None:
    fences = filled.lake.fences("raw")
    run(command, filled)
    assert not written.exists()
    with pytest.raises(LakeError, match="since this command began"):
        commit(filled, filled_file(filled), fences)


def filled_file(filled: Filled) -> Path:
    """Return a data file of raw."""
    return next(Path(filled.settings.lake, "raw").rglob("*.parquet"))


@pytest.mark.parametrize("command", ["erase", "rekey"])
def test_a_file_that_a_writer_was_killed_while_writing_is_deleted_at_once(
    filled: Filled, written: Path, command: str
) -> None:
    staged = written.rename(f"{written}#1")
    staged.write_bytes(staged.read_bytes()[:1000])  # its footer is missing
    run(command, filled)
    assert not staged.exists()


def test_an_erasure_right_after_a_killed_ingestion_succeeds(filled: Filled) -> None:
    steps = 200_000  # more than a writer keeps in memory
    large = flat_track(9, steps=steps, sensor=THREE)
    random = np.random.default_rng(0)
    for column in ("latitude", "longitude", "radiometric_intensity"):
        large[column] = random.random(steps)
    land(filled.settings, "third.parquet", large, hour=LATER)
    places = (filled.settings.lake, filled.settings.landing, filled.settings.pseudonym_keys)
    ended = subprocess.run([sys.executable, "-c", KILLED_INGESTION, *places, LATER], env=os.environ, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert list(Path(filled.settings.lake, "raw").rglob("*.parquet#*"))
    erase(filled.settings, "sensor", str(THREE), delete_waiting=True)
    assert not list(Path(filled.settings.lake).rglob("*.parquet#*"))
    ingest(filled.settings, [LATER])
    assert set(filled.rows("raw")["track_id"]) == {1, 2, 3, 4}


@pytest.mark.parametrize("command", ["erase", "rekey"])
def test_a_file_that_is_committed_while_files_are_searched_is_not_deleted(
    filled: Filled, written: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    def mark_while_committing(*_arguments: Any, **_options: Any) -> list[str]:
        commit(filled, written)
        return []

    monkeypatch.setattr(f"pipeline.privacy.{command}.mark_runs", mark_while_committing)
    with pytest.raises(LakeError, match="a writer has committed 1 files that would be deleted"):
        run(command, filled)
    assert len(filled.rows("raw")) > 0
    assert written.exists()


def test_an_erasure_beside_a_writer_that_has_begun_meanwhile_is_no_proof(
    filled: Filled, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Storage.delete

    def delete_while_writing(storage: Storage, file: Any) -> None:
        delete(storage, file)
        Path(f"{written}#2").touch()

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", delete_while_writing)
        with pytest.raises(LakeError, match="a writer is at work"):
            erase(filled.settings, "sensor", str(ONE))
    erase(filled.settings, "sensor", str(ONE))
    assert not Path(f"{written}#2").exists()


def test_a_track_that_appears_after_the_first_search_stops_an_erasure(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of other sensors in a new track would be left, because nobody looked for the track."""
    scan = erasure._Erasure.scan

    def scan_then_ingest(self: Any) -> Any:
        landed = scan(self)
        both = flat_track(9, sensor=ONE)
        both.loc[10:, "sensor_id"] = TWO
        land(filled.settings, "late.csv", both, hour=LATER)
        for step in (ingest_later, clean_later):
            step(filled)
        return landed

    with monkeypatch.context() as patch:
        patch.setattr(erasure._Erasure, "scan", scan_then_ingest)
        with pytest.raises(LakeError, match="during the erasure"):
            erase(filled.settings, "sensor", str(ONE))
    assert (filled.rows("raw")["track_id"] == 9).sum() == 20
    erase(filled.settings, "sensor", str(ONE))
    assert 9 not in set(filled.rows("clean")["track_id"])
    assert (filled.rows("raw")["track_id"] == 9).sum() == 10
