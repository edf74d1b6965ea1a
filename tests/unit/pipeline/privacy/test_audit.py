"""The audit finds plain ids in every kind of place, and never shows one."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake.storage import Storage, StoredFile
from pipeline.lake.tables import RAW
from pipeline.privacy.audit import AuditReport, audit
from pipeline.privacy.id_search import IdSearch
from pipeline.privacy.keys import add_key, load_keys
from tests.landing import HOUR
from tests.unit.pipeline.privacy.conftest import ALICE, BOB, ONE, TWO, Filled
from training.runs.mlflow_store import experiment_of, open_store, tracking_uri


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Other tests, which run at the same time, leave copies of landing files for a moment."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def places(report: AuditReport) -> list[tuple[str, str]]:
    text = f"{report.summary()} {report.as_dict()}"
    for secret in (str(ONE), str(TWO), ALICE, BOB):
        assert secret not in text
    return [(each.place, each.problem) for each in report.findings]


def add_file(filled: Filled, **columns: object) -> None:
    """Add a data file to raw without going through ingestion, as a faulty program would."""
    rows = filled.lake.open("raw").to_pyarrow_table().slice(0, 1).to_pylist()
    table = pa.Table.from_pylist([rows[0] | columns], schema=RAW.schema).drop_columns(["hour"])
    pq.write_table(table, Path(filled.settings.lake) / "raw" / f"hour={HOUR}" / "part-00000-planted.parquet")


def test_a_lake_that_was_filled_by_ingestion_has_no_findings(filled: Filled) -> None:
    report = audit(filled.settings)
    assert places(report) == []
    assert report.ids == 4  # those of the landing files
    key = load_keys(filled.settings.pseudonym_keys).current
    assert report.rows == {"raw": {key: 79}, "clean": {key: 80}, "features": {key: 80}}
    assert report.searched["data files"] >= 5
    assert report.searched["log files of tables"] >= 10


@pytest.mark.parametrize(
    ("columns", "place", "problem"),
    [
        ({"sensor_id": ONE}, "column sensor_id", "plain ids: 1"),
        ({"sensor_id": 7}, "column sensor_id", "numbers that look like plain ids: 1"),
        ({"altitude": float(ONE)}, "column altitude", "plain ids: 1"),
        ({"_extra": f'{{"note": "{BOB} was here"}}'}, "column _extra", "plain ids: 1"),
        ({"_extra": f'{{"note": {ONE}.0}}'}, "column _extra", "plain ids: 1"),
        ({"object": f"{HOUR}/someone@example.net.csv"}, "column object", "an e-mail address"),
        ({"key_id": "k1-unknown"}, "planted.parquet", "rows without a known key: 1"),
    ],
)
def test_a_planted_value_is_found_in_any_column(
    filled: Filled, columns: dict[str, object], place: str, problem: str
) -> None:
    add_file(filled, **columns)
    found = places(audit(filled.settings))
    assert any(where.endswith(place) and what == problem for where, what in found), found
    assert all("planted.parquet" in where for where, _ in found)


def test_ids_in_the_names_of_files_are_found_and_not_shown(filled: Filled) -> None:
    table = Path(filled.settings.lake) / "raw"
    pq.write_table(pa.table({"row": [1]}), table / f"{ONE}.parquet")
    (found,) = places(audit(filled.settings))
    assert found == ("raw: xxx/9999999.xxxxxxx", "a plain id in the name of a file")


def test_the_log_of_a_table_is_searched(filled: Filled) -> None:
    log = Path(filled.settings.lake) / "raw" / "_delta_log" / "planted.json"
    log.write_text(f'{{"commitInfo": {{"predicate": "sensor_id = {ONE}"}}}}')
    assert places(audit(filled.settings)) == [("raw: raw/_delta_log/planted.json", "plain ids: 1")]


def test_parameters_tags_and_files_of_runs_are_searched(filled: Filled, tmp_path: Path) -> None:
    client = open_store(tracking_uri())
    run = client.create_run(experiment_of(client, tracking_uri())).info.run_id
    client.log_param(run, "data.path", f"/data/{BOB}.csv")
    client.set_tag(run, "note", "ask someone@example.net")
    (tmp_path / "model.bin").write_bytes(b"\xff\x00" + str(ONE).encode() + b"\x00")
    client.log_artifact(run, str(tmp_path / "model.bin"), "models")
    report = audit(filled.settings)
    assert sorted(places(report)) == [
        (f"run {run}: file models/model.bin", "plain ids: 1"),
        (f"run {run}: parameter data.path", "plain ids: 1"),
        (f"run {run}: tag note", "an e-mail address"),
    ]


def test_log_files_are_searched_for_ids_and_exact_coordinates(filled: Filled, tmp_path: Path) -> None:
    log = tmp_path / "ingest.log"
    log.write_text(f"row 3: sensor_id={TWO}\nlatitude=48.1372 longitude=11.5\n")
    assert places(audit(filled.settings, logs=[log])) == [
        (str(log), "plain ids: 1"),
        (str(log), "coordinates that are not rounded to 0.5 degrees: 1"),
    ]


def test_an_invalid_byte_does_not_hide_an_email_address_in_a_log(filled: Filled, tmp_path: Path) -> None:
    text = b"\xff someone@example.net"
    (tmp_path / "ingest.log").write_bytes(text)
    (Path(filled.settings.lake) / "raw" / "_delta_log" / "planted.json").write_bytes(text)
    assert places(audit(filled.settings, logs=[tmp_path / "ingest.log"])) == [
        ("raw: raw/_delta_log/planted.json", "an e-mail address"),
        (str(tmp_path / "ingest.log"), "an e-mail address"),
    ]


def test_a_file_of_ids_replaces_those_of_the_landing_folder(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("8000123\n\n")
    add_file(filled, altitude=8000123.0)
    report = audit(filled.settings, search=tmp_path / "ids.txt")
    assert report.ids == 1
    assert [problem for _, problem in places(report)] == ["plain ids: 1"]


def test_rows_of_an_older_key_are_counted(filled: Filled) -> None:
    old = load_keys(filled.settings.pseudonym_keys).current
    add_key(filled.settings.pseudonym_keys)
    report = audit(filled.settings)
    assert not report.failed
    assert report.rows["raw"] == {old: 79}
    assert "run `reentry privacy rekey`" in report.summary()


def test_landing_files_older_than_the_retention_are_reported(filled: Filled) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=31)
    assert places(audit(filled.settings, now=later)) == [("landing folder", "files older than 30 days: 2")]


def test_copies_of_a_killed_ingestion_are_reported(filled: Filled, own_temporary_folder: Path) -> None:
    (own_temporary_folder / "reentry-ingest-running").mkdir()
    killed = own_temporary_folder / "reentry-ingest-killed"
    killed.mkdir()
    os.utime(killed, (0, 0))
    ((place, problem),) = places(audit(filled.settings))
    assert place == str(killed)
    assert "a killed ingestion has left" in problem


def test_unfinished_data_files_of_killed_writers_are_reported(filled: Filled) -> None:
    for name, modified in (("killed", 0), ("running", None)):
        staged = Path(filled.settings.lake) / "raw" / f"hour={HOUR}" / f"part-00000-{name}.parquet#1"
        staged.write_bytes(b"PAR1")
        os.utime(staged, None if modified is None else (modified, modified))
    ((place, problem),) = places(audit(filled.settings))
    assert place == "raw"
    assert "unfinished data files of killed writers, which cannot be searched: 1" in problem


def test_files_and_folders_that_vanish_during_an_audit_are_no_error(
    filled: Filled, own_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Path(filled.settings.lake) / "raw" / "_delta_log" / "_commit_0.json.tmp"
    gone.touch()
    (own_temporary_folder / "reentry-ingest-ended").mkdir()
    storage_open, stat = Storage.open, Path.stat

    def opened(storage: Storage, file: StoredFile) -> BinaryIO:
        if file.path.endswith(gone.name):
            gone.unlink()
        return storage_open(storage, file)

    def stat_of(path: Path, **options: bool) -> os.stat_result:
        return stat(path.with_name("gone") if path.name == "reentry-ingest-ended" else path, **options)

    monkeypatch.setattr(Storage, "open", opened)
    monkeypatch.setattr(Path, "stat", stat_of)
    assert places(audit(filled.settings)) == []
    assert not gone.exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("sensor 4711001 and 4711001.0", 2),
        ("14711001, 47110010, 4711001.5, 0.4711001", 0),
        ("x4711001 4711001_b", 0),
        ("by alice@example.org.", 1),
        ("sensor_id=7, row 7, 7.0", 1),
        ('{"operator_id": "7"}', 1),
    ],
)
def test_ids_are_found_as_whole_words(text: str, count: int) -> None:
    assert IdSearch(["4711001", "alice@example.org", "7"]).in_text(text.encode()) == count
