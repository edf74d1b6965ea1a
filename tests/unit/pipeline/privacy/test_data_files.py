"""Data files of all versions of a table, and the versions that contain each."""

from __future__ import annotations

from pathlib import Path

from pipeline.lake.maintenance import maintain
from pipeline.lake.storage import Storage
from pipeline.privacy.data_files import TableFiles, data_files
from pipeline.privacy.erase import erase
from pipeline.privacy.rekey import rekey
from tests.unit.pipeline.privacy.conftest import ONE, TWO, Filled
from training.runs.runs import Run


def files_by_version(filled: Filled, table: str) -> dict[int, set[str]]:
    """Files of each version, as Delta Lake itself lists them."""
    versions = range(filled.lake.open(table).version() + 1)
    root = Path(filled.settings.lake)
    uris = {version: filled.lake.open(table, version).file_uris() for version in versions}
    return {version: {str(Path(uri).relative_to(root)) for uri in found} for version, found in uris.items()}


def test_the_versions_of_a_file_are_those_in_which_delta_lake_lists_it(filled: Filled) -> None:
    rekey(filled.settings, new_key=True)
    filled.lake.open("clean").optimize.compact()
    for table in ("raw", "clean", "features"):
        expected = files_by_version(filled, table)
        storage = Storage(filled.settings.lake)
        log = TableFiles(storage, table)
        files = data_files(storage, table)
        assert {file.path for file in files} == set[str]().union(*expected.values())
        for file in files:
            assert log.versions(file) == {version for version, paths in expected.items() if file.path in paths}
            assert log.is_live(file) == (file.path in expected[max(expected)])


def test_a_file_that_was_never_committed_is_in_no_version(filled: Filled) -> None:
    path = Path(filled.settings.lake) / "raw" / "orphan.parquet"
    path.write_bytes(next(path.parent.rglob("*.parquet")).read_bytes())
    storage = Storage(filled.settings.lake)
    (orphan,) = [file for file in data_files(storage, "raw") if file.path == "raw/orphan.parquet"]
    log = TableFiles(storage, "raw")
    assert log.versions(orphan) == set()
    assert not log.is_live(orphan)


def test_maintenance_works_after_an_erasure_has_deleted_files_of_a_kept_version(filled: Filled) -> None:
    table = filled.lake.open("features")
    parameters = {
        "data.table": "features",
        "data.version": str(table.version()),
        "data.table_id": str(table.metadata().id),
    }
    run = Run(run_id="1", name="one", status="FINISHED", started="", parameters=parameters, metrics={})
    erase(filled.settings, "sensor", str(ONE))
    maintain(filled.lake, retention_hours=0, runs=[run])
    assert set(filled.rows("features")["sensor_id"]) == {filled.pseudonym(TWO)}
