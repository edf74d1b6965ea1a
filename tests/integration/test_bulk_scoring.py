"""Bulk scoring with real workers: the results of `reentry predict`, whatever is killed, committed once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.predict import PredictConfig, predict_file
from pipeline.bulk import run
from pipeline.bulk.pool import ProcessPool
from pipeline.bulk.run import score_bulk
from pipeline.bulk.score import Job, PartResult, score_part
from pipeline.lake.lake import Lake
from pipeline.lake.parts import Part
from pipeline.lake.tables import PREDICTIONS
from reentry.serving import EmbeddedServer
from tests.bulk import InThisProcess, config_of, predictions
from tests.gateway_servers import wait_until
from tests.lake import write_clean
from tests.processes import children_of, command_line
from tests.training_data import short_flights

ROOT = Path(__file__).parents[2]
FLIGHTS = short_flights(24, labels=False)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    write_clean(lake, FLIGHTS)
    return lake


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, model_repository: Path) -> pa.Table:
    """Results of a run that nothing disturbs, without the name of the run, which depends on the table's identity."""
    lake = Lake(str(tmp_path_factory.mktemp("undisturbed")))
    write_clean(lake, FLIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.bulk.run.ProcessPool", InThisProcess)
        score_bulk(config_of(lake, model_repository))
    return predictions(lake).drop_columns("run")


@contextmanager
def command(lake: Lake, repository: Path, *options: str, first: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start `reentry score-bulk` after a line of Python, and end it with the block."""
    program = f"import cli; {first}; cli.main()" if first else "import cli; cli.main()"
    places = ("--lake", lake.location, "--repository", str(repository), "--model-version", "1")
    with subprocess.Popen(
        [sys.executable, "-c", program, "score-bulk", "lake:clean", *places, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_bulk_scoring_gives_the_results_of_reentry_predict(
    tmp_path: Path, expected: pa.Table, server: EmbeddedServer
) -> None:
    FLIGHTS.to_csv(tmp_path / "flights.csv", index=False)
    summary = predict_file(
        PredictConfig(source=tmp_path / "flights.csv", out=tmp_path / "out", url=f"grpc://{server.grpc_url}")
    )
    keys = ["track_id", "timestamp"]
    rows = pd.read_csv(summary.files.predictions).sort_values(keys)
    bulk = expected.to_pandas().sort_values(keys)
    assert bulk[keys].to_numpy().tolist() == rows[keys].to_numpy().tolist()
    assert abs(bulk["reentry_probability"].to_numpy() - rows["reentry_probability"].to_numpy()).max() <= 1e-5
    assert bulk["predicted_phase"].tolist() == rows["reentry_phase"].tolist()
    onsets = pd.read_csv(summary.files.onsets).set_index("track_id")["onset_timestamp"].sort_index()
    pd.testing.assert_series_equal(
        bulk.groupby("track_id")["predicted_onset"].first(), onsets, check_names=False, check_exact=True
    )
    assert onsets.notna().any()


class DyingPool(ProcessPool):
    """Worker processes of which the first one that writes the file of a part is killed in the middle of it."""

    marker: Path
    killed: list[int]

    def map(self, compute: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        yield from super().map(partial(die_once, self.marker, compute), tasks)
        self.killed.append(self.retried)


def die_once(marker: Path, compute: Callable[[Any], Any], task: Any) -> Any:
    if isinstance(task, Part):
        with suppress(FileExistsError):
            marker.touch(exist_ok=False)  # only one of the workers that start at the same moment creates it
            pq.write_table = write_half
    return compute(task)


def write_half(table: pa.Table, path: str, *, filesystem: Any, **_: Any) -> None:
    writer = pq.ParquetWriter(path, table.schema, filesystem=filesystem)
    writer.write_table(table.slice(0, len(table) // 2))
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_part_of_a_killed_worker_is_scored_again(
    tmp_path: Path, lake: Lake, model_repository: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    DyingPool.marker, DyingPool.killed = tmp_path / "marker", []
    monkeypatch.setattr("pipeline.bulk.run.ProcessPool", DyingPool)
    summary = score_bulk(config_of(lake, model_repository, processes=2))
    assert (summary.retried, summary.reused) == (1, 0)
    assert DyingPool.killed == [0, 1]
    assert predictions(lake).drop_columns("run").equals(expected)
    assert lake.open(PREDICTIONS.name).version() == 1


def test_a_run_killed_before_its_commit_is_resumed_and_committed_once(
    lake: Lake, model_repository: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = "import os, pipeline.bulk.run as run; run.commit = lambda *_: os.kill(os.getpid(), 9)"
    with command(lake, model_repository, "--processes", "1", first=kill) as process:
        assert process.wait(300) == -signal.SIGKILL
    assert lake.open(PREDICTIONS.name).version() == 0
    monkeypatch.setattr("pipeline.bulk.run.ProcessPool", InThisProcess)
    resumed, again = (score_bulk(config_of(lake, model_repository)) for _ in range(2))
    assert resumed.reused == resumed.parts > 1
    assert again.committed_before
    assert predictions(lake).drop_columns("run").equals(expected)
    assert lake.open(PREDICTIONS.name).version() == 1


def workers_of(process: int) -> list[int]:
    """Return the worker processes of a run, without the helper that multiprocessing starts."""
    return [child for child in children_of(process) if "spawn_main" in command_line(child)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_workers_and_says_how_to_resume(
    tmp_path: Path, lake: Lake, model_repository: Path, number: signal.Signals
) -> None:
    begun = [tmp_path / "first", tmp_path / "second"]
    tasks = [f"import pathlib, time; pathlib.Path({str(path)!r}).touch(); time.sleep(600)" for path in begun]
    sleep = f"import pipeline.bulk.run as run; run._score = lambda *a: list(a[2].map(exec, {tasks!r}))"
    with command(lake, model_repository, "--processes", "2", first=sleep) as process:
        wait_until(lambda: all(path.exists() for path in begun), what="both workers at work")
        workers = workers_of(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "run the same command again to resume" in errors
    assert len(workers) == 2
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def score_part_or_die_once(marker: Path, job: Job, part: Part) -> PartResult:
    return die_once(marker, partial(score_part, job), part)


def test_a_ray_cluster_that_loses_a_worker_gives_the_same_results(
    tmp_path: Path, lake: Lake, model_repository: Path, expected: pa.Table
) -> None:
    pytest.importorskip("ray")
    marker = tmp_path / "marker"
    kill = (
        "import functools, pathlib, pipeline.bulk.run as run, tests.integration.test_bulk_scoring as test; "
        f"run.score_part = functools.partial(test.score_part_or_die_once, pathlib.Path({str(marker)!r}))"
    )
    for _ in range(4):  # Ray gives up if its processes do not start within 30 s
        with command(lake, model_repository, "--address", "local", "--json", first=kill) as process:
            answer, errors = process.communicate(timeout=600)
        if "error: local: there is no usable Ray cluster" not in errors:
            break
    else:
        pytest.skip(f"Ray does not start on this machine: {errors.strip().splitlines()[-1]}")
    assert process.returncode == 0, errors
    assert marker.exists()
    summary = json.loads(answer)
    assert (summary["tracks"], summary["rows"]) == (24, len(FLIGHTS))
    assert predictions(lake).drop_columns("run").equals(expected)


def test_a_lake_in_an_object_store_gives_the_same_results(
    bucket: str, model_repository: Path, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(f"{bucket}/lake")
    write_clean(lake, FLIGHTS)
    monkeypatch.setattr("pipeline.bulk.run.ProcessPool", InThisProcess)
    commit = run.commit
    monkeypatch.setattr("pipeline.bulk.run.commit", lambda *_: None)
    score_bulk(config_of(lake, model_repository))
    monkeypatch.setattr("pipeline.bulk.run.commit", commit)
    resumed = score_bulk(config_of(lake, model_repository))
    assert resumed.reused == resumed.parts > 1
    assert predictions(lake).drop_columns("run").equals(expected)
