"""The search for the best candidate on made-up measurements, its journal, and the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perf.analyzer.config import Workload
from perf.analyzer.results import Figures, ServerTimes, WorkloadResult
from perf.analyzer.slo import Objective
from perf.tuning import candidates as candidates_module
from perf.tuning.candidates import Subject, axes, described
from perf.tuning.config import TuneConfig, read_tune_config
from perf.tuning.report import as_dict, markdown, write_reports
from perf.tuning.search import Journal, best_result, qualifies, search
from perf.tuning.tune import Finalist, TuneReport
from reentry.errors import ConfigError
from reentry.serving.tuned import ModelTuning
from tests.conftest import REPOSITORY, copy_repository

PRESENT = ModelTuning(instances=2, threads=1, batching=False)
SUBJECT = Subject(model="reentry_track", networks=("reentry_track",), pythons=(), present=PRESENT)
WORKLOAD = Workload(model="reentry_track", protocol="grpc", batch=16, length="900", load="concurrency", level=4)


def result(speed: float, *, p99: float = 5.0, p50: float = 2.0, stalls: int = 0, **fields: Any) -> WorkloadResult:
    times = ServerTimes(queue=0.1, compute_input=0.1, compute_infer=1.0, compute_output=0.1)
    figures = Figures(
        requests=100,
        tracks_per_second=speed,
        p50=p50,
        p90=p99,
        p95=p99,
        p99=p99,
        mean=p50,
        client_send=0.0,
        client_receive=0.0,
        server=times,
        members={},
        late=0.0,
    )
    return WorkloadResult(
        workload=replace(WORKLOAD, **fields), stable=True, figures=figures, recorded=300, stalls=stalls
    )


FAILED = WorkloadResult(workload=WORKLOAD, stable=False, figures=None, failure="queue size")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "cores", lambda: 2)


def test_the_search_improves_one_setting_after_the_other() -> None:
    seen: list[ModelTuning] = []
    left: list[int] = []

    def measure(settings: ModelTuning) -> list[WorkloadResult]:
        seen.append(settings)
        speed = 100.0 * (settings.instances or 0) - 50.0 * (settings.threads or 0) + 30.0 * bool(settings.batching)
        return [result(speed)]

    config = TuneConfig(instances=(1, 2, 3), threads=(1, 2), queue_delays=(0,), queue_sizes=(0,))
    measured = search(PRESENT, axes(SUBJECT, config), measure, None, left.append)
    assert seen[0] == PRESENT
    assert len(seen) == len(set(seen)) == len(measured)
    best = max(measured, key=lambda each: measured[each][0].figures.tracks_per_second)  # type: ignore[union-attr]
    assert best == ModelTuning(instances=3, threads=1, batching=True)
    assert left[0] == 4  # two other numbers of instances, another of threads, and batching
    assert all(count >= 1 for count in left)


def test_candidates_with_far_more_threads_than_cores_are_left_out() -> None:
    config = TuneConfig(instances=(1, 4), threads=(1, 2, 4), queue_delays=())
    found = axes(SUBJECT, config)
    assert [each.threads for each in found["threads"](PRESENT)] == [1, 2]
    assert [each.instances for each in found["instances"](replace(PRESENT, threads=2))] == [1]
    assert not list(found["batching"](PRESENT))


def test_candidates_without_batching_keep_the_present_bound_of_the_queue() -> None:
    bounded = replace(PRESENT, max_queue_size=16)
    config = TuneConfig(queue_delays=(0, 500), queue_sizes=(0, 64))
    off, *on = axes(replace(SUBJECT, present=bounded), config)["batching"](replace(PRESENT, instances=3))
    assert off == replace(bounded, instances=3)
    assert [(each.max_queue_delay_microseconds, each.max_queue_size) for each in on] == [
        *((0, 0), (0, 64), (500, 0), (500, 64))
    ]
    kept = list(axes(replace(SUBJECT, present=bounded), TuneConfig(queue_delays=(0,)))["batching"](PRESENT))
    assert [each.max_queue_size for each in kept] == [16, 16]
    assert [each.max_queue_size for each in axes(SUBJECT, TuneConfig(queue_delays=(0,)))["batching"](PRESENT)] == [
        0,
        64,
    ]
    assert described(on[3]) == "3 instances, 1 threads, batching, queue of 64, delay 500 us"


def test_the_members_of_an_ensemble_follow_its_networks(tmp_path: Path) -> None:
    repository = copy_repository(tmp_path)
    for name in ("reentry_lstm", "reentry_track"):
        (repository / name / "1").mkdir()
    subject = Subject.of(repository, "reentry")
    assert (subject.networks, subject.pythons) == (("reentry_lstm",), ("track_features", "track_decision"))
    assert subject.present.max_queue_size == 512
    tables = subject.tables(ModelTuning(instances=5, threads=1, batching=False))
    assert {name: each.instances for name, each in tables.items()} == {
        "reentry_lstm": 5,
        "track_features": 2,
        "track_decision": 2,
    }
    for model, phrase in (("nothing", "no model nothing"), ("track_features", "nothing to tune")):
        with pytest.raises(ConfigError, match=phrase):
            Subject.of(repository, model)
    assert REPOSITORY.is_dir()


def test_a_result_qualifies_if_it_holds_the_limit_without_a_stalled_request() -> None:
    limit, queued = Objective(99, 10.0), replace(PRESENT, batching=True)
    assert qualifies(result(1.0, p99=10.0), queued, limit)
    assert not qualifies(result(1.0, p99=10.1), queued, limit)
    assert not qualifies(result(1.0, stalls=1), queued, None)
    assert qualifies(result(1.0, stalls=1), PRESENT, None)  # without a queue of Triton, another load delayed a request
    assert qualifies(result(1.0, stalls=9, p50=350.0), queued, None)  # all requests are that slow
    assert not qualifies(FAILED, queued, None)
    results = [result(900.0, p99=11.0), result(500.0), result(800.0, batch=1), FAILED]
    found = best_result(results, queued, limit)
    assert found is not None
    assert found.workload.batch == 1
    assert best_result([FAILED], queued, None) is None


def test_a_journal_keeps_finished_candidates_for_the_same_conditions(tmp_path: Path) -> None:
    path = tmp_path / "made" / "candidates.jsonl"
    journal = Journal(path, {"cores": 2})
    results = [result(812.5, p99=7.25), FAILED]
    journal.add(PRESENT, results)
    with path.open("a") as file:
        file.write('[{"instances": 3, "thr')  # cut off by a kill
    assert Journal(path, {"cores": 2}).found == {PRESENT: results}
    assert Journal(path, {"cores": 4}).found == {}
    assert Journal(path, {"cores": 4}).found == {}


def report(present: list[float], other: list[float], *, holds: bool = True, other_holds: bool = True) -> TuneReport:
    config, tune = read_tune_config(None)
    better = replace(PRESENT, instances=3)
    finalists = [
        Finalist(
            settings=each, present=each == PRESENT, turns=tuple(map(result, speeds)), held=len(speeds) if held else 0
        )
        for each, speeds, held in ((PRESENT, present, holds), (better, other, other_holds))
    ]
    return TuneReport(
        config=config,
        objective="p99 <= 10 ms",
        machine={"processor": "CPU", "cores": 2, "memory_gib": 4},
        versions={"reentry": "1"},
        git_revision="abc",
        subject=SUBJECT,
        tune=tune,
        measured={PRESENT: [result(100.0)], better: [result(120.0), FAILED]},
        finalists=finalists,
    )


def test_better_settings_are_written_as_tuned_settings(tmp_path: Path) -> None:
    made = report([100.0, 102.0, 98.0], [125.0, 120.0, 130.0])
    written = write_reports(made, tmp_path)
    assert [path.name for path in written] == ["tune.csv", "tune.json", "tune.md", "tuned.toml"]
    content = json.loads((tmp_path / "tune.json").read_text())
    assert content["headline"] == "now 100 tracks/s, best 125 (+25%)"
    assert content["tuned"] == {"reentry_track": {"instances": 3, "threads": 1, "batching": False}}
    assert "[reentry_track]\ninstances = 3\nthreads = 1\nbatching = false\n" in (tmp_path / "tuned.toml").read_text()
    rows = (tmp_path / "tune.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 + 6
    assert "git_revision" in rows[0]
    assert "| 3 instances, 1 threads | 16 | 4 | 125 | 120 | 130 |" in markdown(made)


@pytest.mark.parametrize(
    ("made", "headline"),
    [
        (report([100.0, 121.0, 98.0], [125.0, 120.0, 130.0]), "no settings are better by more than the noise"),
        (report([100.0], [90.0]), "no settings are better by more than the noise"),
        (report([100.0], [150.0], other_holds=False), "no settings are better by more than the noise"),
        (report([100.0], [150.0], holds=False, other_holds=False), "no settings run in each turn within p99 <= 10 ms"),
    ],
)
def test_settings_that_are_not_better_by_more_than_the_noise_are_not_written(
    tmp_path: Path, made: TuneReport, headline: str
) -> None:
    (tmp_path / "tuned.toml").write_text("of an earlier search")
    write_reports(made, tmp_path)
    assert headline in as_dict(made)["headline"]
    assert not (tmp_path / "tuned.toml").exists()


def test_settings_that_alone_hold_the_limit_are_better_even_if_they_are_slower() -> None:
    made = report([100.0], [80.0], holds=False)
    assert made.better is made.finalists[1]
    assert as_dict(made)["headline"] == (
        "now 100 tracks/s, in no turn within p99 <= 10 ms and without failed or stalled requests; best 80 tracks/s"
    )


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('[perf]\nmodels = ["a", "b"]', "several models"),
        ('[perf]\nprotocols = ["grpc", "http"]', "several protocols"),
        ('[perf]\nlengths = ["50", "60"]', "several lengths"),
        ("[perf]\nrates = [1.0]", "rates cannot be tuned"),
        ("[tune]\ninstances = [0]", "instances out of range"),
        ("[tune]\nthreads = [1, 1]", "duplicate value in threads"),
        ("[tune]\nturns = 0", "turns out of range"),
        ("[tune]\nanything = 1", "unknown key"),
        ("[tuned]\nturns = 1", "unknown table"),
    ],
)
def test_settings_of_a_search_that_make_no_sense_are_refused(tmp_path: Path, text: str, phrase: str) -> None:
    path = tmp_path / "tune.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=phrase):
        read_tune_config(path)


def test_the_model_of_the_command_line_replaces_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tune.toml"
    path.write_text('[perf]\nmodels = ["reentry"]\nwindow = 3.0')
    config, _ = read_tune_config(path, model="reentry_track")
    assert (config.models, config.window, config.ceiling) == (("reentry_track",), 3.0, False)
    assert read_tune_config(path)[0].models == ("reentry",)
    assert read_tune_config(None)[0].models == ("reentry_track",)
