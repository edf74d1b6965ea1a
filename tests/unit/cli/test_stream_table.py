"""The view of running feeds: a table on a terminal, plain lines in a log."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from rich.console import Console

from cli import stream_table
from cli.stream_table import showing
from client.stream import Alert, Feed
from client.stream.run import StreamConfig, StreamRun


@pytest.fixture
def run() -> StreamRun:
    """A run with one feed of two tracks, one of them in reentry."""
    made = StreamRun(StreamConfig(source="t.csv"), lambda _: None)
    feed = made.feeds["radar"] = Feed("radar", ["grpc://127.0.0.1:8001"])
    slots = feed.tracks.slots_of(np.array([7, 8]), time.monotonic())
    feed.tracks.phase[slots], feed.tracks.probability[slots] = [1, 0], [0.875, 0.125]
    feed.statistics.updates, feed.statistics.alerts = 1_234, 1
    feed.statistics.update_latency.add(0.002)
    alert = Alert(
        feed="radar",
        track_id=7,
        onset_timestamp=1731308400.5,
        detected_at=1731308401.0,
        probability=0.75,
        model_version=3,
        latency_ms=4.25,
    )
    made.alerts = [alert]
    return made


def test_the_table_shows_feeds_alerts_and_latencies(run: StreamRun) -> None:
    console = Console(file=io.StringIO(), width=140, record=True)
    console.print(stream_table.view(run, stream_table.Rate()))
    text = console.export_text()
    for expected in (
        "radar",
        "unavailable",
        "1,234",
        "1 alerts",
        "2024-11-11 07:00:00.5",
        "reentry",
        "0.875",
        "4.2 ms",
    ):
        assert expected in text
    assert "latency p50 / p99: 2.0 / 2.0 ms" in text


def test_the_log_has_a_line_at_intervals(
    run: StreamRun, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(stream_table, "_SECONDS_BETWEEN_LINES", 0.0)
    with showing(alerts_on_stdout=True) as show:
        show(run)
    (line,) = caplog.messages
    assert line.startswith("1,234 measurements, ")
    assert "2 live tracks, 1 in reentry, 1 alerts, latency p50/p99 2.0 / 2.0 ms, 0 replays, 0 rejected" in line
