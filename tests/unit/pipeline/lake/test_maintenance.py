"""Maintenance of the tables: what it keeps, what it removes, and what it must not change."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.lake.files import missing_files
from pipeline.lake.lake import Lake
from pipeline.lake.maintenance import maintain, recorded_runs, versions_of_runs
from reentry.errors import ConfigError, InputError, RepositoryError
from registry.labels import Record
from registry.open import open_store
from registry.promotion import promote
from tests.lake import clean_rows, write_clean
from tests.training_data import short_flights
from tests.versions import bare_repository, install
from training.runs.recorder import recording
from training.runs.runs import Run, all_runs


@pytest.fixture
def versions(lake: Lake) -> list[int]:
    """Versions of the table clean, each of which replaces all rows of the one before."""
    return [write_clean(lake, short_flights(2, seed=seed)) for seed in range(4)]


def run(lake: Lake, version: int, status: str = "FINISHED", table: str = "clean", **changes: str) -> Run:
    parameters = {
        "data.table": table,
        "data.version": str(version),
        "data.table_id": str(lake.open("clean").metadata().id),
    }
    return Run(
        run_id="1", name="a", status=status, started="", parameters=parameters | changes, metrics={"onset_rmse": 0.0}
    )


def readable(lake: Lake, versions: list[int]) -> list[int]:
    return [version for version in versions if not missing_files(lake, "clean", version)]


def test_versions_that_runs_name_and_the_newest_one_stay_readable(lake: Lake, versions: list[int]) -> None:
    before = lake.open("clean", versions[1]).to_pyarrow_table()
    (report,) = maintain(lake, retention_hours=0, runs=[run(lake, versions[1])])
    assert readable(lake, versions) == [versions[1], versions[3]]
    assert (report.table, report.kept) == ("clean", [versions[1]])
    assert report.removed > 0 < report.bytes
    assert lake.open("clean", versions[1]).to_pyarrow_table().equals(before)


def test_unfinished_files_of_killed_writers_are_removed_after_an_hour(lake: Lake, versions: list[int]) -> None:
    killed, running = (Path(lake.uri("clean")) / f"part-00000-{name}.parquet#1" for name in ("killed", "running"))
    for path in (killed, running):
        path.write_bytes(b"PAR1")
    os.utime(killed, (0, 0))
    (planned,) = maintain(lake, dry_run=True, runs=[])
    assert killed.exists()
    (done,) = maintain(lake, runs=[])
    assert (planned.removed, planned.bytes) == (done.removed, done.bytes) == (1, 4)
    assert (killed.exists(), running.exists()) == (False, True)


def test_files_within_the_retention_stay(lake: Lake, versions: list[int]) -> None:
    (report,) = maintain(lake, runs=[])
    assert (report.removed, report.bytes) == (0, 0)
    assert readable(lake, versions) == versions


def test_a_dry_run_changes_nothing_and_reports_what_would_be_removed(lake: Lake, versions: list[int]) -> None:
    newest = lake.open("clean").version()
    (planned,) = maintain(lake, dry_run=True, retention_hours=0, runs=[])
    assert lake.open("clean").version() == newest
    assert readable(lake, versions) == versions
    (done,) = maintain(lake, retention_hours=0, runs=[])
    assert (done.removed, done.bytes) == (planned.removed, planned.bytes)
    assert "to remove" in planned.summary(dry_run=True)
    assert readable(lake, versions) == versions[3:]
    assert maintain(lake, retention_hours=0, runs=[])[0].removed == 0


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED", "KILLED", "SCHEDULED"])
def test_a_run_that_has_not_failed_keeps_its_version(lake: Lake, versions: list[int], status: str) -> None:
    table = lake.open("clean")
    assert versions_of_runs(table, "clean", [run(lake, versions[0], status)]) == [versions[0]]


def test_failed_runs_and_runs_on_other_tables_keep_nothing(lake: Lake, versions: list[int]) -> None:
    runs = [
        run(lake, versions[0], "FAILED"),
        run(lake, versions[1], table="features"),
        run(lake, versions[2], **{"data.table_id": "that of another lake"}),
        run(lake, 1_000),
        Run(run_id="2", name="on a file", status="FINISHED", started="", parameters={}, metrics={}),
    ]
    assert versions_of_runs(lake.open("clean"), "clean", runs) == []


def test_a_deleted_run_keeps_nothing(lake: Lake, versions: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from training.runs.mlflow_store import open_store as open_runs
    from training.runs.mlflow_store import tracking_uri

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path(lake.location).with_name('mlflow.db')}")
    with recording(True, run(lake, versions[0]).parameters) as recorder:
        pass
    table = lake.open("clean")
    assert versions_of_runs(table, "clean", all_runs()) == [versions[0]]
    open_runs(tracking_uri()).delete_run(recorder.run_id)
    assert versions_of_runs(table, "clean", recorded_runs()) == []


def labelled_models(lake: Lake, folder: Path, versions: list[int]) -> Path:
    """Models 1 to 6: an unlabelled one, two earlier ones, the one in production, the candidate, and an old one."""
    repository = bare_repository(folder)
    identity = str(lake.open("clean").metadata().id)
    tables: list[dict[str, str | int] | None] = [
        *({"name": "clean", "version": version, "id": identity} for version in versions[:3]),
        {"name": "features", "version": versions[0], "id": identity},
        {"name": "clean", "version": versions[0], "id": "that of another lake"},
        None,
    ]
    for number, table in enumerate(tables, 1):
        install(repository, folder, number, data_table=table)
    store = open_store(repository)
    for number in (2, 3, 4, 6):
        promote(store, number, reason="a test")
    record = Record.of(store)
    record.replace(store, replace(record.labels, candidate=5))
    return repository


def test_versions_that_labelled_models_were_trained_on_stay_readable(
    lake: Lake, versions: list[int], tmp_path: Path
) -> None:
    repository = labelled_models(lake, tmp_path / "models", versions)
    (report,) = maintain(lake, retention_hours=0, runs=[], repository=str(repository))
    assert report.kept == versions[1:3]
    assert readable(lake, versions) == versions[1:]
    shutil.rmtree(repository / "reentry_lstm" / "2")  # as `reentry repository prune` removes a version
    maintain(lake, retention_hours=0, runs=[], repository=str(repository))
    assert readable(lake, versions) == versions[2:]


def test_manifests_without_a_table_are_valid_and_keep_nothing(lake: Lake, versions: list[int], tmp_path: Path) -> None:
    repository = labelled_models(lake, tmp_path / "models", versions)
    for path in repository.rglob("manifest.json"):
        content = json.loads(path.read_text())
        del content["data_table"]
        path.write_text(json.dumps(content))
    (report,) = maintain(lake, retention_hours=0, runs=[], repository=str(repository))
    assert report.kept == []


def test_with_an_unreadable_manifest_of_a_labelled_model_nothing_is_removed(
    lake: Lake, versions: list[int], tmp_path: Path
) -> None:
    repository = labelled_models(lake, tmp_path / "models", versions)
    (repository / "reentry_lstm" / "3" / "manifest.json").write_text("{")
    with pytest.raises(RepositoryError, match="not a manifest"):
        maintain(lake, retention_hours=0, runs=[], repository=str(repository))
    assert readable(lake, versions) == versions


def test_without_a_record_of_runs_nothing_is_removed(
    lake: Lake, versions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path(lake.location).with_name('none.db')}")
    with pytest.raises(InputError, match="no record of runs") as error:
        maintain(lake, retention_hours=0)
    assert "--without-runs" in str(error.value.fix)
    assert readable(lake, versions) == versions


def test_small_files_are_compacted_without_changing_a_row(lake: Lake) -> None:
    lake.create("clean")
    rows = clean_rows(short_flights(6))
    for start in range(0, len(rows), 100):
        piece = rows.slice(start, 100)
        lake.commit_once("clean", [f"piece {start}"], lambda *_, piece=piece: piece)
    order = [("track_id", "ascending"), ("step", "ascending")]
    before = lake.open("clean").to_pyarrow_table().sort_by(order)
    files = len(lake.open("clean").file_uris())
    (report,) = maintain(lake, runs=[])
    after = lake.open("clean")
    assert report.compacted > report.into > 0
    assert len(after.file_uris()) == files - report.compacted + report.into
    assert after.to_pyarrow_table().sort_by(order).equals(before)
    assert lake.committed("clean", ["piece 0", "piece 9"]) == {"piece 0"}  # keys outlive the compaction
    assert "compacted into" in report.summary()


def test_a_file_of_a_killed_writer_is_removed_after_the_retention(lake: Lake, versions: list[int]) -> None:
    orphan = Path(lake.location) / "clean" / "bucket=0" / "orphan.parquet"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"half a file")
    maintain(lake, runs=[])
    assert orphan.exists()
    maintain(lake, retention_hours=0, runs=[run(lake, version) for version in versions])
    assert not orphan.exists()
    assert readable(lake, versions) == versions


def test_a_negative_retention_is_an_error(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="retention hours"):
        maintain(lake, retention_hours=-1, runs=[])


def test_checkpoints_of_the_log_do_not_hide_old_files(lake: Lake, versions: list[int]) -> None:
    lake.open("clean").create_checkpoint()
    maintain(lake, retention_hours=0, runs=[run(lake, versions[0])])
    assert readable(lake, versions) == [versions[0], versions[3]]
    assert set(lake.open("clean", versions[0]).to_pyarrow_table()["track_id"].to_pylist()) == {0, 1}
