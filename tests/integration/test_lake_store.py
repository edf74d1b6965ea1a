"""The pipeline over a real S3-compatible store: racing processes, a kill between two commits, and an unfit store.

The store is SeaweedFS. The one without conditional writes is moto behind a filter that drops the condition of a PUT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.clean.build import build_clean
from pipeline.features.build import build_features
from pipeline.features.training_data import LakeTrainingData
from pipeline.ingest.ingest import ingest
from pipeline.lake.files import missing_files
from pipeline.lake.lake import Lake
from pipeline.lake.maintenance import maintain
from pipeline.lake.object_store import object_store
from pipeline.lake.race import race
from pipeline.lake.reference import TableReference
from pipeline.settings import PipelineSettings
from reentry.errors import LakeError
from tests.gateway_servers import Server, free_port
from tests.lake import write_clean
from tests.landing import HOUR, flat_track, land, pipeline_settings
from tests.object_store import CREDENTIALS
from tests.training_data import short_flights
from training.runs.runs import Run

# s3fs allows a forgotten session 0.1 s to close its connections, which is too little on a loaded machine.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

INGEST = """
import sys
from pipeline.ingest.ingest import ingest
from pipeline.settings import read_pipeline_settings
{before}
print(sum(hour.ingested for hour in ingest(read_pipeline_settings(), sys.argv[1:]).hours))
"""
KILLED = """
import os, signal
from pipeline.lake.lake import Lake
commit = Lake.commit_once
def killed(self, name, *arguments, **named):
    if name == "raw":
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self, name, *arguments, **named)
Lake.commit_once = killed
"""


@pytest.fixture
def stored(bucket: str, tmp_path: Path) -> PipelineSettings:
    """A landing folder and a lake in a bucket."""
    local = pipeline_settings(tmp_path)
    return PipelineSettings(lake=f"{bucket}/lake", landing=f"{bucket}/landing", pseudonym_keys=local.pseudonym_keys)


def upload(settings: PipelineSettings, folder: Path, name: str, *tables: Any, hour: str = HOUR) -> None:
    local = PipelineSettings(landing=str(folder))
    object_store().put_file(str(land(local, name, *tables, hour=hour)), f"{settings.landing}/{hour}/{name}")


def start(settings: PipelineSettings, *hours: str, before: str = "") -> subprocess.Popen[str]:
    keys = Path(settings.pseudonym_keys.removeprefix("file:"))
    variables = {
        "TMPDIR": str(keys.parent),  # an audit of another test would find the copies that a killed process leaves
        "REENTRY_PIPELINE_LAKE": settings.lake,
        "REENTRY_PIPELINE_LANDING": settings.landing,
        "REENTRY_PIPELINE_PSEUDONYM_KEYS": settings.pseudonym_keys,
    }
    return subprocess.Popen(
        [sys.executable, "-c", INGEST.format(before=before), *hours],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def raw_rows(settings: PipelineSettings) -> Counter[str]:
    """Number of rows of each object in `raw`."""
    column = Lake(settings.lake).open("raw").to_pyarrow_table(columns=["object"]).column("object")
    return Counter(column.to_pylist())


def test_eight_processes_that_ingest_at_once_add_every_row_once(stored: PipelineSettings, tmp_path: Path) -> None:
    hours = [HOUR, "2026-12-01T09"]
    for number in range(3):
        for hour in hours:
            upload(stored, tmp_path, f"{number}.csv", flat_track(number, start=1.7e9 + len(hour)), hour=hour)
            upload(stored, tmp_path, f"late-{number}.csv", flat_track(100 + number, start=float(hour[-2:])), hour=hour)
    running = [start(stored, *hours) for _ in range(8)]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 8, outputs
    assert sum(int(out) for out, _ in outputs) == 9  # the same tracks in both hours count once
    assert set(raw_rows(stored).values()) == {20}
    assert len(raw_rows(stored)) == 9
    assert not any(hour.ingested for hour in ingest(stored, hours).hours)
    assert build_clean(Lake(stored.lake)).rows == 180


def test_a_process_killed_between_its_two_commits_is_repaired_by_the_same_command(
    stored: PipelineSettings, tmp_path: Path
) -> None:
    broken = flat_track(2).astype({"latitude": object})
    broken.loc[3, "latitude"] = "north"
    upload(stored, tmp_path, "a.csv", *(flat_track(number) for number in range(3, 8)), broken)
    killed = start(stored, HOUR, before=KILLED)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    lake = Lake(stored.lake)
    assert lake.open("quarantine").to_pyarrow_dataset().count_rows() == 1
    assert not lake.exists("raw")
    [report] = ingest(stored, [HOUR]).hours
    assert (report.ingested, report.rows, report.bad_rows) == (1, 120, 1)
    assert lake.open("quarantine").to_pyarrow_dataset().count_rows() == 1
    assert raw_rows(stored) == {f"{HOUR}/a.csv": 119}


def test_an_object_that_was_uploaded_again_replaces_its_rows(stored: PipelineSettings, tmp_path: Path) -> None:
    upload(stored, tmp_path, "a.parquet", flat_track(1), flat_track(2))
    assert ingest(stored, [HOUR]).hours[0].ingested == 1
    upload(stored, tmp_path, "a.parquet", flat_track(1, seed=1))
    assert ingest(stored, [HOUR]).hours[0].ingested == 1
    assert raw_rows(stored) == {f"{HOUR}/a.parquet": 20}


def test_an_object_that_returns_to_an_earlier_content_has_its_rows_again(
    stored: PipelineSettings, tmp_path: Path
) -> None:
    for number in (1, 2, 1):
        upload(stored, tmp_path, "a.csv", flat_track(number))
        time.sleep(1.1)  # the store keeps times in whole seconds
        assert ingest(stored, [HOUR]).hours[0].ingested == 1
    lake = Lake(stored.lake)
    assert set(lake.open("raw").to_pyarrow_table(columns=["track_id"]).column(0).to_pylist()) == {1}
    assert not ingest(stored, [HOUR]).hours[0].ingested


def test_tracks_are_built_again_if_the_store_has_lost_files_of_the_earlier_version(
    stored: PipelineSettings, tmp_path: Path
) -> None:
    lake = Lake(stored.lake)
    for number in (1, 2):
        upload(stored, tmp_path, f"{number}.csv", flat_track(number))
        ingest(stored, [HOUR])
    assert build_clean(lake).tracks == 2
    lake.open("raw").optimize.compact()
    lake.open("raw").vacuum(0, dry_run=False, enforce_retention_duration=False)
    upload(stored, tmp_path, "3.csv", flat_track(3))
    ingest(stored, [HOUR])
    assert build_clean(lake).tracks == 3


def test_the_store_passes_the_race_and_keeps_nothing_of_it(bucket: str) -> None:
    assert race(f"{bucket}/somewhere").passed
    assert object_store().find(bucket) == []


def test_a_missing_bucket_is_an_error_rather_than_an_empty_hour(stored: PipelineSettings) -> None:
    missing = PipelineSettings(
        lake=stored.lake, landing="s3://no-such-bucket-here/x", pseudonym_keys=stored.pseudonym_keys
    )
    with pytest.raises(LakeError, match="does not exist"):
        ingest(missing, [HOUR])


@pytest.mark.parametrize("command", ["ingest from it", "ingest into it", "race"])
def test_a_store_that_does_not_answer_is_an_error_that_says_so(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}).items():
        monkeypatch.setenv(name, value)
    away, here = "s3://bucket/place", pipeline_settings(tmp_path)
    commands = {
        "ingest from it": lambda: ingest(replace(here, landing=away), [HOUR]),
        "ingest into it": lambda: ingest(replace(here, lake=away), [HOUR]),
        "race": lambda: race(away),
    }
    with pytest.raises(LakeError) as raised:
        commands[command]()
    assert "connect" in str(raised.value.got).lower()
    assert "\n" not in str(raised.value)
    assert "AWS_ENDPOINT_URL" in str(raised.value.fix)


CARELESS = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
inner = DomainDispatcherApplication(create_backend_app)
def careless(environment, begin):
    environment.pop("HTTP_IF_NONE_MATCH", None)
    return inner(environment, begin)
make_server("127.0.0.1", int(sys.argv[1]), careless, threaded=True).serve_forever()
"""


@pytest.fixture
def careless_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket of a store that ignores the condition of a PUT."""
    port = free_port()
    server = Server(port=port, command=[sys.executable, "-c", CARELESS, str(port)], log=tmp_path / "store.log")
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
        monkeypatch.setenv(name, value)
    try:
        server.start()
        object_store().mkdir("careless")
        yield "s3://careless"
    finally:
        server.stop()


def test_a_store_without_conditional_writes_is_refused(careless_bucket: str, tmp_path: Path) -> None:
    local = pipeline_settings(tmp_path, lake=f"{careless_bucket}/lake")
    land(local, "a.csv", flat_track(1))
    with pytest.raises(LakeError, match="no conditional writes"):
        ingest(local, [HOUR])
    assert object_store().find(careless_bucket) == []
    with pytest.raises(LakeError, match="no conditional writes"):
        race(careless_bucket)


def test_versions_that_runs_name_stay_readable_in_a_bucket_and_the_others_are_removed(stored: PipelineSettings) -> None:
    lake = Lake(stored.lake)
    built = []
    for seed in range(3):
        version = write_clean(lake, short_flights(2, seed=seed))
        built.append(build_features(lake, version, groups=frozenset()))
    named = {"data.table": "features", "data.version": "1", "data.table_id": str(lake.open("features").metadata().id)}
    run = Run(run_id="1", name="first", status="FINISHED", started="", parameters=named, metrics={})
    report = {each.table: each for each in maintain(lake, retention_hours=0, runs=[run])}
    assert (report["features"].kept, report["features"].bytes > 0) == ([1], True)
    assert [version for version in (1, 2, 3) if not missing_files(lake, "features", version)] == [1, 3]
    with LakeTrainingData.of(lake, TableReference("features", 1)).open(frozenset()) as data:
        assert data.report.rows == built[0].rows
