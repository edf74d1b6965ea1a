"""`reentry stream` before it connects to a server, and the summary that it prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from client.stream.run import StreamSummary
from reentry.errors import ConfigError, TrackFileError


def run(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["stream", *arguments]).exception


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--url", "127.0.0.1:8001", "not the URL of a Triton server"),
        ("--url", "http://127.0.0.1:8000", "need the gRPC address"),
        ("--rate", "fast", "not a rate"),
        ("--scan", "-1", "duration of a scan"),
        ("--scan", "nan", "duration of a scan"),
        ("--patience", "-1", "patience"),
        ("--metrics-port", "70000", "metrics port"),
        ("--name", "", "invalid name of a feed"),
        ("--name", "x" * 101, "invalid name of a feed"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_the_file_is_read(option: str, value: str, problem: str) -> None:
    error = run("no-such-file.csv", option, value)
    assert isinstance(error, ConfigError)
    assert problem in str(error)


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    error = run(str(tmp_path / "none.csv"), "--alerts", str(tmp_path / "out" / "alerts.jsonl"))
    assert isinstance(error, TrackFileError)
    assert "none.csv" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def summary() -> StreamSummary:
    return StreamSummary(
        feeds=2,
        tracks=3,
        updates=2_000,
        rejected={"late": 4, "no_slot": 1},
        alerts=2,
        refinements=6,
        replays={"lost_server": 3},
        replayed_measurements=900,
        truncated_replays=1,
        bad_lines=5,
        rows_set_aside=0,
        model_version=7,
        seconds=0.5,
        update_latency_ms=(1.25, 9.5),
        alert_latency_ms=(None, None),
        alerts_file="out/alerts.jsonl",
        undelivered=None,
        notes="",
    )


def test_the_summary_has_counts_latencies_and_the_place_of_the_alerts(summary: StreamSummary) -> None:
    text = summary.summary()
    for expected in (
        "2,000 measurements of 3 tracks in 0.5 s (4,000/s) by model version 7",
        "2 alerts and 6 refinements: out/alerts.jsonl",
        "p50 1.2 ms, p99 9.5 ms",
        "rejected measurements: 4 late, 1 no slot",
        "replayed tracks: 3 lost server",
        "5 bad lines skipped",
    ):
        assert expected in text
    assert "7 alerts and refinements not delivered" in replace(summary, undelivered=7).summary()
    assert "2 alerts: out/alerts.jsonl" in replace(summary, refinements=0).summary()
    assert json.loads(summary.to_json())["replays"] == {"lost_server": 3}


def test_a_run_is_complete_if_only_values_and_times_were_rejected(summary: StreamSummary) -> None:
    complete = replace(summary, bad_lines=0, rejected={"late": 4, "invalid": 2})
    assert complete.is_complete
    assert not replace(complete, rejected={"refused": 1}).is_complete
    assert not replace(complete, rejected={"no_slot": 1}).is_complete
    assert not replace(complete, bad_lines=1).is_complete
    assert not replace(complete, rows_set_aside=1).is_complete
