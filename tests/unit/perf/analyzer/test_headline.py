"""Headline of a report: the throughput of the server divided by the ceiling."""

from __future__ import annotations

from dataclasses import replace

from perf.analyzer.config import PerfConfig
from perf.analyzer.report import as_dict, markdown
from perf.analyzer.results import Ceiling, Report, WorkloadResult
from tests.perf_report import make_rate, make_report, make_result

CONFIG = PerfConfig(batches=(1, 4, 16), concurrency=(1, 4))
RATES = (
    make_rate(1500.0),
    make_rate(2000.0, workers=2),
    make_rate(4000.0, batch=4, threads=2),
    make_rate(5000.0, batch=16),
    make_rate(30_000.0, graph="step.onnx", length=None),
)


def served(batch: int, tracks_per_second: float, level: float = 4, **changed: object) -> WorkloadResult:
    result = make_result(level=level, tracks_per_second=tracks_per_second, **changed)
    return replace(result, workload=replace(result.workload, batch=batch))


def report_of(*results: WorkloadResult, **changed: object) -> Report:
    return make_report(*results, **{"config": CONFIG, "ceiling": Ceiling(version=3, rates=RATES), **changed})


def test_the_best_served_workload_is_divided_by_the_best_arrangement_of_the_same_batch() -> None:
    report = report_of(served(1, 200.0, level=1), served(1, 500.0), served(4, 3000.0), served(16, 2000.0))
    (headline,) = as_dict(report)["ceiling"]["headline"]
    assert headline["length"] == "900"
    assert headline["single"]["share"] == 500.0 / 2000.0
    assert headline["single"]["served"]["level"] == 4
    assert headline["single"]["ceiling"] == {"workers": 2, "threads": 1, "tracks_per_second": 2000.0}
    assert headline["batches"]["batch"] == 16  # the batch with the highest ceiling
    assert headline["batches"]["share"] == 2000.0 / 5000.0
    shares = [(each["batch"], each["share"]) for each in as_dict(report)["ceiling"]["shares"]]
    assert shares == [(1, 0.25), (4, 0.75), (16, 0.4)]
    text = markdown(report)
    assert text.splitlines()[2] == (
        "- **served / ceiling, 900 steps: 0.250 for single tracks, 0.400 for batches of 16**"
    )
    assert "| step.onnx | - | 1 | 1 run at once, 1 thread each | 30,000 | 28,500 | 33,000 |" in text


def test_a_workload_that_is_not_stable_is_used_only_if_none_is() -> None:
    unstable = served(1, 900.0, stable=False)
    (found, *_) = as_dict(report_of(unstable, served(1, 500.0)))["ceiling"]["shares"]
    assert (found["share"], found["served"]["status"]) == (0.25, "stable")
    (found, *_) = as_dict(report_of(unstable))["ceiling"]["shares"]
    assert (found["share"], found["served"]["status"]) == (0.45, "unstable")


def test_a_share_of_windows_that_differ_is_marked_as_unstable() -> None:
    rate = make_rate(windows=(1000.0, 2000.0, 3000.0))
    report = make_report(make_result(tracks_per_second=500.0), ceiling=Ceiling(version=3, rates=(rate,)))
    assert "0.250 (unstable) for single tracks" in markdown(report)
    assert [each["stable"] for each in as_dict(report)["ceiling"]["shares"]] == [False]
    assert [each["stable"] for each in as_dict(report_of(served(1, 500.0)))["ceiling"]["shares"]] == [
        True,
        False,
        False,
    ]


def test_a_batch_whose_workloads_failed_or_that_is_not_configured_is_said() -> None:
    report = report_of(replace(served(1, 1.0), figures=None, failure="queue full"))
    assert "failed for single tracks, failed for batches of 16" in markdown(report)
    assert as_dict(report)["ceiling"]["headline"][0]["single"]["share"] is None
    single = make_report(make_result(), ceiling=Ceiling(version=3, rates=RATES[:1]))
    assert "none measured for batches" in markdown(single)
    assert as_dict(single)["ceiling"]["headline"][0]["batches"] is None


def test_a_report_without_a_ceiling_says_why_in_place_of_a_number() -> None:
    missing = {"track.onnx": "version 3 has no such file"}
    report = report_of(served(1, 500.0), ceiling=Ceiling(version=3, missing=missing, rates=RATES[-1:]))
    text = markdown(report)
    assert text.splitlines()[2] == "**served / ceiling: not measured**, version 3 has no such file."
    assert "track.onnx was not measured in process" in text
    assert "| step.onnx | - | 1 |" in text
    content = as_dict(report)["ceiling"]
    assert content["missing"] == missing
    assert content["headline"] == [{"length": "900", "single": None, "batches": None}]


def test_a_server_given_by_its_url_may_run_on_another_machine() -> None:
    assert "another machine" not in markdown(report_of(served(1, 500.0)))
    remote = report_of(served(1, 500.0), ceiling=Ceiling(version=3, remote=True, rates=RATES), urls=("grpc://a:1",))
    assert "may run on another machine" in markdown(remote)
    assert as_dict(remote)["ceiling"]["remote"] is True
