"""Figures, verdicts and report of a replay."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perf.stream.agreement import Agreement
from perf.stream.config import StreamConfig
from perf.stream.monitor import MemorySample, growth
from perf.stream.replay import Record
from perf.stream.report import markdown, write_reports
from perf.stream.results import Figures, StreamReport

RIGHT = Agreement(model="reentry_track", tracks=8, measurements=800, largest=1e-7)


def record(**settings: Any) -> Record:
    """A second of 1,000 updates in 100 requests, one of which takes 600 ms."""
    latencies = array("d", [0.001 * number for number in range(1, 100)] + [0.6])
    return Record(
        **{"latencies": latencies, "lateness": array("d", [0.0] * 100), "updates": 1000, "seconds": 1.0} | settings
    )


def report(config: StreamConfig | None = None, made: Record | None = None, **settings: Any) -> StreamReport:
    config = config or StreamConfig(tracks=500, rate=2.0, duration=1.0)
    fields: dict[str, Any] = {
        "config": config,
        "server": "embedded",
        "machine": {"processor": "some", "cores": 2, "memory_gib": 8},
        "versions": {"reentry": "0.1.0"},
        "git_revision": "abcd",
        "figures": Figures.of(config, made or record(latencies=array("d", [0.01] * 100))),
        "agreement": RIGHT,
        "client_cpu": 0.1,
        "server_cpu": 1.2,
        "memory": [MemorySample(float(second), 100.0) for second in range(3)],
    }
    return StreamReport(**fields | settings)


def test_the_figures_summarise_the_record() -> None:
    figures = Figures.of(StreamConfig(tracks=500, rate=2.0), record(lateness=array("d", [0.001] * 98 + [0.006, 0.02])))
    assert figures.offered == figures.achieved == 1000.0
    assert figures.latency["p50"] == pytest.approx(50.5)
    assert figures.latency["max"] == pytest.approx(600.0)
    assert figures.stalls == 1
    assert figures.late == pytest.approx(0.02)
    assert figures.latest == pytest.approx(20.0)


def test_a_rate_is_held_only_if_it_is_answered_in_time_without_a_stall_and_right() -> None:
    assert report().held
    assert not report(made=record()).held, "one request stalled"
    fast = array("d", [0.01] * 100)
    assert not report(made=record(latencies=fast, updates=980)).held
    assert not report(made=record(latencies=fast, behind=True)).held
    assert not report(made=record(latencies=fast, unaccepted=1)).held
    assert not report(agreement=Agreement(model="reentry", tracks=1, measurements=9, largest=1e-4)).held


def test_an_answer_that_is_not_a_number_is_a_difference() -> None:
    assert Agreement(model="reentry", tracks=1, measurements=9, largest=float("nan")).failed
    assert not Agreement(model=None).failed


def test_a_refused_request_and_no_answer_at_all_are_failures() -> None:
    assert not report().failed
    assert report(made=record(errors=Counter({"no": 1}))).failed
    assert report(made=record(latencies=array("d"), lateness=array("d"), updates=0)).failed


def test_the_report_says_that_a_late_generator_limits_the_figures() -> None:
    late = report(made=record(lateness=array("d", [0.0] * 90 + [0.05] * 10)))
    assert late.generator_limits
    assert "The generator, not the server alone, was the limit: it sent 10%" in markdown(late)
    assert "The generator" not in markdown(report())


def test_the_report_says_that_a_busy_generator_limits_a_closed_loop() -> None:
    config = StreamConfig(tracks=500, rate=None)
    assert "it used 0.95 of one core" in markdown(report(config, client_cpu=0.95))
    assert "The generator" not in markdown(report(config, client_cpu=0.5))


def test_the_report_has_the_headline_and_the_settings(tmp_path: Path) -> None:
    made = report()
    paths = write_reports(made, tmp_path)
    assert [path.name for path in paths] == ["stream.json", "stream.md"]
    content = json.loads(paths[0].read_text())
    assert content["held"] is True
    assert content["figures"]["achieved"] == 1000.0
    assert content["config"]["tracks"] == 500
    text = paths[1].read_text()
    assert "1,000 of 1,000 updates/s, p99 10.0 ms, 0 stalls: held" in text
    assert "| processor time of the server, µs per update | 1,200.0 |" in text


def test_the_growth_of_the_memory_leaves_the_beginning_out() -> None:
    samples = [MemorySample(float(second), 500.0 if second < 12 else 100.0 + second / 60.0) for second in range(61)]
    assert growth(samples) == pytest.approx(1.0)


def test_a_short_replay_says_nothing_about_the_growth_of_the_memory() -> None:
    assert growth([MemorySample(float(second), 1.0) for second in range(5)]) is None
    assert growth([]) is None
