"""Erasure of sensors, operators and tracks from all versions of all tables, and from the landing folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.clean.build import build_clean
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage
from pipeline.privacy.erase import ErasureReport, erase
from pipeline.privacy.keys import as_text, new_keys
from pipeline.privacy.rekey import rekey
from pipeline.privacy.runs import REASON, REPRODUCIBLE
from reentry.errors import ConfigError, InputError, LakeError
from tests.gateway_servers import wait_until
from tests.landing import HOUR, flat_track, land
from tests.unit.pipeline.privacy.conftest import ALICE, BOB, ONE, TWO, Filled
from training.runs.mlflow_store import experiment_of, open_store, tracking_uri

LATER = "2026-12-01T09"
TABLES = ("raw", "clean", "features", "predictions", "quarantine")


def tracks(filled: Filled, table: str) -> dict[int, int]:
    """Number of rows of each track of a table."""
    return dict(filled.rows(table)["track_id"].value_counts().sort_index())


def on_disk(filled: Filled, column: str, *, without: str = "") -> set[int]:
    """Values of a column in all data files of the lake but those of one table, whatever version they belong to."""
    root = Path(filled.settings.lake)
    files = [path.relative_to(root) for path in root.rglob("*.parquet")]
    tables = [pq.ParquetFile(root / path).read() for path in files if path.parts[0] != without]
    return {each for table in tables if column in table.column_names for each in table[column].to_pylist()} - {None}


def test_a_sensor_leaves_all_tables_and_all_their_earlier_versions(filled: Filled) -> None:
    assert on_disk(filled, "sensor_id") == {filled.pseudonym(ONE), filled.pseudonym(TWO)}
    report = erase(filled.settings, "sensor", str(ONE))
    # Track 4 keeps the rows of the other sensor in raw; tables of whole tracks lose it until they are rebuilt.
    assert tracks(filled, "raw") == {3: 20, 4: 10}
    assert tracks(filled, "clean") == tracks(filled, "features") == tracks(filled, "predictions") == {3: 20}
    assert len(filled.rows("quarantine")) == 0
    assert report.rows == {"predictions": 60, "quarantine": 1, "features": 60, "clean": 60, "raw": 49}
    assert on_disk(filled, "sensor_id") == {filled.pseudonym(TWO)}
    assert on_disk(filled, "track_id", without="raw") == {3}
    assert report.landing_files == 1
    assert [path.name for path in (Path(filled.settings.landing) / HOUR).iterdir()] == ["second.parquet"]


def test_the_log_of_the_tables_does_not_name_the_pseudonym(filled: Filled) -> None:
    erased = str(filled.pseudonym(ONE)).encode()
    erase(filled.settings, "sensor", str(ONE))
    assert not [name for name, content in filled.bytes().items() if erased in content]


def test_cleaning_rebuilds_the_tracks_of_other_sensors(filled: Filled) -> None:
    erase(filled.settings, "sensor", str(ONE))
    build_clean(filled.lake)
    assert tracks(filled, "clean") == {3: 20, 4: 10}


def test_ingestion_does_not_bring_erased_rows_back(filled: Filled) -> None:
    erase(filled.settings, "sensor", str(ONE))
    ingest(filled.settings, [HOUR])
    assert tracks(filled, "raw") == {3: 20, 4: 10}


def test_an_id_in_an_unknown_column_makes_a_row_one_of_the_subject(filled: Filled) -> None:
    report = erase(filled.settings, "sensor", str(TWO))
    assert tracks(filled, "raw") == {1: 19, 2: 19, 4: 10}  # row 3 of track 1 has it in the column note
    assert report.rows["raw"] == 20 + 10 + 1
    assert report.landing_files == 2


def test_an_operator_is_erased_by_the_text_of_landing_files(filled: Filled) -> None:
    erase(filled.settings, "operator", ALICE)
    assert set(filled.rows("raw")["operator_id"]) == {filled.operator(BOB)}
    assert tracks(filled, "clean") == {3: 20}


def test_a_track_is_erased(filled: Filled) -> None:
    report = erase(filled.settings, "track", "4")
    for table in ("raw", "clean", "features", "predictions"):
        assert 4 not in tracks(filled, table)
    assert report.rows["raw"] == 20
    assert on_disk(filled, "track_id") == {1, 2, 3}


def test_rows_of_older_keys_are_found(filled: Filled) -> None:
    old = filled.pseudonym(ONE)
    rekey(filled.settings, new_key=True)
    assert {old, filled.pseudonym(ONE)} <= on_disk(filled, "sensor_id")
    erase(filled.settings, "sensor", str(ONE))
    assert not {old, filled.pseudonym(ONE)} & on_disk(filled, "sensor_id")


def test_versions_without_the_subject_stay_readable(filled: Filled) -> None:
    land(filled.settings, "third.csv", flat_track(9, sensor=TWO), hour=LATER)
    ingest(filled.settings, [LATER])
    before = filled.lake.open("raw").version()
    land(filled.settings, "fourth.csv", flat_track(10, sensor=4711003), hour="2026-12-01T10")
    ingest(filled.settings, ["2026-12-01T10"])
    report = erase(filled.settings, "sensor", "4711003")
    assert tracks(filled, "raw") == {1: 20, 2: 19, 3: 20, 4: 20, 9: 20}
    assert len(filled.rows("raw", before)) == 99
    assert report.versions == {"raw": [before + 1]}


def test_an_unknown_subject_changes_no_row_and_no_file(filled: Filled) -> None:
    before = filled.bytes()
    report = erase(filled.settings, "sensor", "999999999")
    assert (report.rows, report.files, report.versions, report.landing_files) == ({}, {}, {}, 0)
    after = filled.bytes()
    assert after.items() >= before.items()
    assert all("_delta_log" in name for name in after.keys() - before.keys())  # fences


def test_a_dry_run_reports_the_same_and_changes_nothing(filled: Filled) -> None:
    before = filled.bytes()
    planned = erase(filled.settings, "sensor", str(ONE), dry_run=True)
    assert filled.bytes() == before
    assert len(list((Path(filled.settings.landing) / HOUR).iterdir())) == 2
    done = erase(filled.settings, "sensor", str(ONE))
    assert (planned.rows, planned.landing_files) == (done.rows, done.landing_files)
    assert (planned.tracks, done.tracks) == ([1, 2, 4], [])
    assert planned.versions == {table: [1] for table in TABLES}
    # The erasure itself makes versions too, one for each partition.
    assert all(done.versions[table][0] == 1 for table in TABLES)


def test_nothing_that_is_reported_or_logged_names_the_subject(filled: Filled, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    report = erase(filled.settings, "operator", ALICE)
    text = f"{report} {report.summary()} {report.as_dict()} {caplog.text}"
    for secret in (ALICE, str(filled.operator(ALICE)), str(ONE), str(filled.pseudonym(ONE))):
        assert secret not in text
    assert report.erasure_id.startswith("erasure-")


class Killed(BaseException):
    """Ends an erasure at any place, as a signal does."""


def test_a_killed_erasure_is_finished_by_the_same_command(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rewriting and deletion in turn is the last one of a killed run."""
    steps = 0
    runs = 0

    def killing(original: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            result = original(*arguments, **options)
            steps += 1
            if steps == 3:  # each run gets a little further
                raise Killed
            return result

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_write", staticmethod(killing(Lake._write)))
        patch.setattr(Storage, "delete", killing(Storage.delete))
        while True:
            steps, runs = 0, runs + 1
            try:
                erase(filled.settings, "sensor", str(ONE))
            except Killed:
                continue
            break
    assert runs > 5
    assert tracks(filled, "raw") == {3: 20, 4: 10}
    assert tracks(filled, "predictions") == {3: 20}
    assert on_disk(filled, "sensor_id") == {filled.pseudonym(TWO)}
    assert not (Path(filled.settings.landing) / HOUR / "first.csv").exists()


def test_an_erasure_that_the_system_killed_is_finished_by_the_same_command(filled: Filled) -> None:
    settings = filled.settings
    versions = {table: filled.lake.open(table).version() for table in TABLES}
    command = [sys.executable, "-c", "from cli import main; main()", "privacy", "erase", "--sensor", "-"]
    command += ["--lake", settings.lake, "--landing", settings.landing]
    environment = os.environ | {"REENTRY_PIPELINE_PSEUDONYM_KEYS": settings.pseudonym_keys}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        process.stdin.write(f"{ONE}\n".encode())
        process.stdin.close()
        log = Path(settings.lake) / "quarantine" / "_delta_log" / f"{versions['quarantine'] + 1:020}.json"
        wait_until(lambda: log.exists() or process.poll() is not None, what="the second commit of the erasure")
        process.kill()
    assert log.exists()
    erase(settings, "sensor", str(ONE))
    assert tracks(filled, "raw") == {3: 20, 4: 10}
    assert tracks(filled, "clean") == tracks(filled, "predictions") == {3: 20}
    assert on_disk(filled, "sensor_id") == {filled.pseudonym(TWO)}


def test_a_landing_file_that_waits_for_ingestion_is_not_deleted_without_consent(filled: Filled) -> None:
    path = land(filled.settings, "new.csv", flat_track(5, sensor=ONE), flat_track(6, sensor=TWO), hour=LATER)
    before = filled.bytes()
    with pytest.raises(LakeError) as caught:
        erase(filled.settings, "sensor", str(ONE))
    assert "1 landing files" in caught.value.problem
    assert filled.bytes() == before
    assert path.exists()
    erase(filled.settings, "sensor", str(ONE), delete_waiting=True)
    assert not path.exists()


def test_a_track_in_a_row_with_a_field_too_many_is_erased_from_the_landing_folder(filled: Filled) -> None:
    path = land(
        filled.settings, "third.csv", flat_track(9, sensor=TWO), flat_track(812, steps=1, sensor=TWO), hour=LATER
    )
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f"{line},1" if ",812," in line else line for line in lines) + "\n")
    ingest(filled.settings, [LATER])
    assert erase(filled.settings, "track", "812").landing_files == 1
    assert not path.exists()


def test_a_damaged_page_of_a_landing_file_does_not_stop_an_erasure(filled: Filled) -> None:
    path = Path(filled.settings.landing) / HOUR / "second.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196  # the pages begin behind the magic number; the footer stays readable
    path.write_bytes(content)
    erase(filled.settings, "sensor", str(ONE))
    assert tracks(filled, "raw") == {3: 20, 4: 10}
    assert path.exists()


def test_rows_that_are_added_during_an_erasure_are_an_error(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = Storage.delete
    added = False

    def adding(*arguments: Any) -> None:
        nonlocal added
        delete(*arguments)
        if not added:
            added = True
            land(filled.settings, "late.csv", flat_track(5, sensor=ONE), hour=LATER)
            ingest(filled.settings, [LATER])

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", adding)
        with pytest.raises(LakeError) as caught:
            erase(filled.settings, "sensor", str(ONE))
    assert "during the erasure" in caught.value.problem
    erase(filled.settings, "sensor", str(ONE))
    assert tracks(filled, "raw") == {3: 20, 4: 10}


def test_files_of_killed_writers_are_erased_too(filled: Filled) -> None:
    source = next(Path(filled.settings.lake, "raw").rglob("*.parquet"))
    orphan = source.with_name("part-00000-orphan.parquet")
    orphan.write_bytes(source.read_bytes())
    erase(filled.settings, "sensor", str(ONE))
    assert not orphan.exists()


def test_runs_of_versions_that_lost_rows_are_marked(filled: Filled) -> None:
    version = filled.lake.open("features").version()
    client = open_store(tracking_uri())
    experiment = experiment_of(client, tracking_uri())
    names = {"affected": f"lake:features@{version}", "empty": "lake:features@0", "file": "data/train.csv"}
    names["other lake"] = names["affected"]
    runs = {}
    for name, data in names.items():
        runs[name] = client.create_run(experiment, run_name=name).info.run_id
        client.log_param(runs[name], "data.path", data)
    client.log_param(runs["other lake"], "data.table_id", "another table")
    planned = erase(filled.settings, "sensor", str(ONE), dry_run=True)
    assert planned.runs == [runs["affected"]]
    assert REPRODUCIBLE not in client.get_run(runs["affected"]).data.tags
    report = erase(filled.settings, "sensor", str(ONE))
    assert report.runs == [runs["affected"]]
    tags = client.get_run(runs["affected"]).data.tags
    assert tags[REPRODUCIBLE] == "no"
    assert tags[REASON] == f"{report.time} {report.erasure_id}"
    for name in ("empty", "file", "other lake"):
        assert REPRODUCIBLE not in client.get_run(runs[name]).data.tags


@pytest.mark.parametrize(("kind", "name"), [("sensor", "alice"), ("track", "1.5x"), ("operator", " ")])
def test_an_invalid_id_is_an_error_that_does_not_quote_it(filled: Filled, kind: str, name: str) -> None:
    with pytest.raises(InputError) as caught:
        erase(filled.settings, kind, name)
    assert name.strip() == "" or name not in str(caught.value)


def test_rows_of_an_unknown_key_stop_an_erasure_before_anything_is_erased(filled: Filled, tmp_path: Path) -> None:
    before = filled.bytes()
    Path(filled.settings.pseudonym_keys.removeprefix("file:")).write_text(as_text(new_keys(tmp_path / "other.json")))
    with pytest.raises(ConfigError) as caught:
        erase(filled.settings, "sensor", str(ONE))
    assert caught.value.problem == "rows have pseudonyms of an unknown key"
    assert filled.bytes() == before


def test_the_summary_names_ranges_of_versions() -> None:
    report = ErasureReport(erasure_id="erasure-1", dry_run=False, time="", versions={"raw": [1, 2, 3, 7]})
    assert "lake:raw@1-3, lake:raw@7" in report.summary()
