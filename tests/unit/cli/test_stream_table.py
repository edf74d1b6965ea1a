"""The view of running feeds: a table on a terminal, plain lines in a log."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from cli import stream_table
from cli.stream_table import showing
from client.stream import Alert, Feed, Refinement
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
    other = replace(alert, track_id=8)
    made.alerts = [alert, other]
    made.refinements["radar", 7] = Refinement(
        feed="radar",
        track_id=7,
        onset_timestamp=1731308400.5,
        refined_onset_timestamp=1731308399.25,
        refined_onset_deviation=0.75,
        hindsight_seconds=5.0,
        model_version=3,
    )
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
        "2024-11-11 06:59:59.2 ± 0.8 s",
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


def test_only_the_refinements_of_shown_alerts_are_kept() -> None:
    made = StreamRun(StreamConfig(source="t.csv"), lambda _: None)
    alerts = [
        Alert(
            feed="radar",
            track_id=track,
            onset_timestamp=100.0,
            detected_at=100.0,
            probability=0.75,
            model_version=3,
            latency_ms=4.0,
        )
        for track in range(11)
    ]
    refinements = [
        Refinement(
            feed="radar",
            track_id=track,
            onset_timestamp=100.0,
            refined_onset_timestamp=99.0,
            refined_onset_deviation=0.5,
            hindsight_seconds=2.0,
            model_version=3,
        )
        for track in range(11)
    ]
    for alert, refinement in zip(alerts[:10], refinements, strict=False):
        made._alert(alert)
        made._refinement(refinement)
    made._alert(alerts[10])
    assert list(made.refinements) == [("radar", track) for track in range(1, 10)]
    made._refinement(refinements[0])
    made._refinement(replace(refinements[5], hindsight_seconds=5.0))
    assert len(made.refinements) == 9
    assert made.refinements["radar", 5].hindsight_seconds == 5.0
