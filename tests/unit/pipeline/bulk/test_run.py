"""A run of bulk scoring: independent of its parts, committed once, resumed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from client.batching import BatchConfig
from pipeline.bulk import run as runs
from pipeline.bulk.commit import BulkSummary, commit
from pipeline.bulk.run import run_name, score_bulk
from pipeline.bulk.score import Job, PartResult
from pipeline.lake.lake import Lake
from pipeline.lake.parts import Part
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, CLEAN, PREDICTIONS
from reentry.errors import ConfigError, InputError, LakeError, ReentryError, RepositoryError
from reentry.runtime.signals import Ended
from tests.bulk import InThisProcess, config_of, model_of, predictions
from tests.lake import write_clean
from tests.toy_model import write_toy_model
from tests.training_data import short_flights

FLIGHTS = short_flights(24)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.bulk.run.ProcessPool", InThisProcess)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    write_clean(lake, FLIGHTS)
    return lake


def test_the_results_do_not_depend_on_the_size_of_the_parts(
    tmp_path: Path, lake: Lake, model_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run", "score"):
        monkeypatch.setattr(f"pipeline.bulk.{module}.BATCHING", BatchConfig(tracks=3, window=100))
    copy = Lake(str(shutil.copytree(lake.location, tmp_path / "copy")))
    small = score_bulk(config_of(lake, model_repository, part_rows=1))
    large = score_bulk(config_of(copy, model_repository))
    assert small.parts > large.parts
    assert (small.run, small.tracks, small.rows, small.onsets) == (large.run, 24, len(FLIGHTS), large.onsets)
    assert predictions(lake).equals(predictions(copy))


def test_a_run_is_committed_once_with_its_summary_in_the_history(lake: Lake, model_repository: Path) -> None:
    first = score_bulk(config_of(lake, model_repository))
    again = score_bulk(config_of(lake, model_repository))
    assert not first.committed_before
    assert again.committed_before
    assert "nothing to do" in again.summary()
    table = lake.open(PREDICTIONS.name)
    assert table.version() == 1
    assert json.loads(table.history(1)[0]["bulk"])["run"] == first.run == again.run
    assert predictions(lake).num_rows == first.rows == again.rows == len(FLIGHTS)
    assert not commit(lake, first, [], {})  # as another process that scored the same run at the same time
    assert lake.open(PREDICTIONS.name).version() == 1


def test_the_log_names_the_files_and_their_rows_but_no_track(lake: Lake, model_repository: Path) -> None:
    write_clean(lake, FLIGHTS.assign(track_id=FLIGHTS["track_id"] + 777_000_000_000_000))
    score_bulk(config_of(lake, model_repository))
    place = Path(lake.uri(PREDICTIONS.name))
    actions = lake.open(PREDICTIONS.name).get_add_actions(flatten=True)
    assert sum(actions["num_records"].to_pylist()) == len(FLIGHTS)
    for path, size in zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True):
        assert (place / path).stat().st_size == size
    assert "77700000000" not in "".join(file.read_text() for file in (place / "_delta_log").glob("*.json"))


def test_another_model_or_another_version_of_the_table_is_another_run(
    tmp_path: Path, lake: Lake, model_repository: Path
) -> None:
    first = score_bulk(config_of(lake, model_repository))
    other = shutil.copytree(model_repository, tmp_path / "other")
    write_toy_model(other / "reentry_lstm" / "1" / "model.onnx", version=1, seed=1)
    second = score_bulk(config_of(lake, other))
    write_clean(lake, short_flights(3))
    third = score_bulk(config_of(lake, other))
    frozen = score_bulk(config_of(lake, other, source=TableReference.parse(second.source)))
    assert len({first.run, second.run, third.run}) == 3
    assert (frozen.run, frozen.committed_before) == (second.run, True)
    assert Counter(predictions(lake)["run"].to_pylist()) == {
        summary.run: summary.rows for summary in (first, second, third)
    }


def test_the_name_of_a_run_depends_on_the_identity_of_the_table(model_repository: Path) -> None:
    source, model = TableReference(CLEAN.name, 1), model_of(model_repository)
    assert run_name("a", source, model) == run_name("a", source, model)
    assert run_name("a", source, model) != run_name("b", source, model)


def test_a_failed_part_commits_nothing_and_keeps_the_others(tmp_path: Path, lake: Lake, model_repository: Path) -> None:
    repository = shutil.copytree(model_repository, tmp_path / "faulty")
    graph = repository / "reentry_lstm" / "1" / "model.onnx"
    write_toy_model(graph, version=1, fault="run")  # fails above 8 steps
    flights = FLIGHTS.groupby("track_id").head(5)
    write_clean(lake, FLIGHTS[FLIGHTS["track_id"] == 7].combine_first(flights).astype(FLIGHTS.dtypes))
    with pytest.raises(ReentryError, match=r"1 tracks could not be scored.*track 7 in bucket \d+: ") as raised:
        score_bulk(config_of(lake, repository))
    assert raised.value.where == "lake:clean@2"
    assert lake.open(PREDICTIONS.name).version() == 0
    with pytest.raises(ReentryError, match="track 7 in bucket"):
        score_bulk(config_of(lake, repository))
    kept = list(Path(lake.uri(PREDICTIONS.name)).glob("run=*/*.parquet"))
    assert sum(len(list(path.parent.iterdir())) for path in kept[:1]) == len(kept) > 5


@pytest.mark.parametrize("table", [CLEAN.name, PREDICTIONS.name])
def test_results_are_not_committed_if_rows_were_erased_during_the_run(
    lake: Lake, model_repository: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    score = runs.score_part

    def score_while_erasing(job: Job, part: Part) -> PartResult:
        result = score(job, part)
        if part.bucket == BUCKETS - 1:
            next(Path(lake.uri(table)).glob("*=*/*.parquet")).unlink()
        return result

    monkeypatch.setattr("pipeline.bulk.run.score_part", score_while_erasing)
    with pytest.raises(LakeError, match="1 files were removed during the run"):
        score_bulk(config_of(lake, model_repository))
    assert lake.open(PREDICTIONS.name).version() == 0
    assert not list(Path(lake.uri(PREDICTIONS.name)).glob("*=*/*"))


def test_an_erasure_right_before_the_commit_stops_it(
    lake: Lake, model_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = runs.require_files

    def erase_after_the_check(*arguments: Any) -> None:
        check(*arguments)
        Lake(lake.location).fence(PREDICTIONS.name)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "require_files", erase_after_the_check)
        with pytest.raises(LakeError, match="since this command began"):
            score_bulk(config_of(lake, model_repository))
    assert predictions(lake).num_rows == 0
    again = score_bulk(config_of(lake, model_repository))  # no row of this version was erased, so the parts are kept
    assert again.reused == again.parts
    assert predictions(lake).num_rows == len(FLIGHTS)


def test_results_of_an_ended_run_are_deleted_if_rows_were_erased(
    lake: Lake, model_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = runs.score_part
    erased = False

    def score_while_erasing(job: Job, part: Part) -> PartResult:
        score(job, part)
        if erased:
            next(Path(lake.uri(CLEAN.name)).glob("*=*/*.parquet")).unlink()
        raise Ended

    monkeypatch.setattr("pipeline.bulk.run.score_part", score_while_erasing)
    for erased in (False, True):
        with pytest.raises(Ended):
            score_bulk(config_of(lake, model_repository))
        assert bool(list(Path(lake.uri(PREDICTIONS.name)).glob("*=*/*"))) != erased


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"source": TableReference("raw", 1)}, InputError, "expected lake:clean@VERSION; got lake:raw@1"),
        ({"source": TableReference("clean", 9)}, LakeError, "clean: there is no such version; expected 0 to 1; got 9"),
        ({"processes": 0}, ConfigError, "processes out of range"),
        ({"part_rows": 0}, ConfigError, "rows of a part out of range"),
        ({"model_version": "2"}, RepositoryError, "no such version"),
        ({"model_version": "production"}, RepositoryError, "no version is labelled production"),
    ],
)
def test_wrong_settings_are_refused(
    lake: Lake, model_repository: Path, settings: dict[str, object], error: type[ReentryError], text: str
) -> None:
    with pytest.raises(error, match=text):
        score_bulk(config_of(lake, model_repository, **settings))


def test_an_empty_table_is_refused(tmp_path: Path, model_repository: Path) -> None:
    lake = Lake(str(tmp_path / "empty"))
    lake.create(CLEAN.name)
    with pytest.raises(InputError, match="lake:clean@0: the table has no rows"):
        score_bulk(config_of(lake, model_repository))


def test_the_summary_names_what_was_done_before_and_again() -> None:
    summary = BulkSummary(
        run="r", source="lake:clean@3", model_version=2, tracks=1_000, rows=900_000, onsets=5, parts=20, reused=4,
        retried=1, driver_bytes=10, seconds=2.0,
    )  # fmt: skip
    text = summary.summary()
    assert "lake:clean@3: 1,000 tracks, 900,000 rows, 5 enter reentry" in text
    assert "20 parts, 4 of them in an interrupted run, 1 again after a lost worker" in text
