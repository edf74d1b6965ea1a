"""Output of perf_analyzer 2.51.0, recorded from runs against the embedded server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from perf.analyzer.output import failed_request, read_figures, read_latencies
from perf.analyzer.results import ServerTimes
from reentry.errors import ClientError

RECORDED = Path(__file__).parent / "recorded"


def test_the_figures_of_an_ensemble_are_read_with_those_of_its_members() -> None:
    figures = read_figures(RECORDED / "ensemble.csv", (RECORDED / "ensemble.out").read_text())
    assert (figures.requests, figures.tracks_per_second, figures.late) == (272, 150.562, 0.0)
    assert (figures.p50, figures.p90, figures.p95, figures.p99) == (10.744, 20.694, 28.566, 35.716)
    assert (figures.mean, figures.client_send, figures.client_receive) == (13.161, 0.011, 0.005)
    assert list(figures.members) == ["reentry_lstm", "track_decision", "track_features"]
    assert figures.members["track_features"] == ServerTimes(
        queue=1.997, compute_input=0.035, compute_infer=5.819, compute_output=0.951
    )
    assert figures.server.queue == pytest.approx(0.080 + 0.480 + 1.997)
    assert figures.server.compute_infer == pytest.approx(1.386 + 1.483 + 5.819)
    assert figures.server.total + figures.other == pytest.approx(13.161 - 0.011 - 0.005)


def test_the_times_of_a_model_without_members_are_its_own() -> None:
    figures = read_figures(RECORDED / "late.csv", (RECORDED / "late.out").read_text())
    assert figures.members == {}
    assert figures.server == ServerTimes(queue=0.001, compute_input=0.170, compute_infer=10.337, compute_output=1.162)


def test_the_share_of_requests_that_were_sent_late_is_read() -> None:
    assert read_figures(RECORDED / "late.csv", (RECORDED / "late.out").read_text()).late == 96.94


def test_the_latency_of_each_recorded_request_is_read() -> None:
    assert read_latencies(RECORDED / "requests_with_inputs.json") == pytest.approx([6.44898, 5.057422, 5.729446])


def test_a_missing_figure_is_named(tmp_path: Path) -> None:
    shutil.copy(RECORDED / "ensemble.csv", tmp_path / "level.csv")
    with pytest.raises(ClientError, match="Request count"):
        read_figures(tmp_path / "level.csv", "")
    (tmp_path / "level.csv").write_text("Concurrency\n2\n")
    with pytest.raises(ClientError, match="Server Queue"):
        read_figures(tmp_path / "level.csv", (RECORDED / "ensemble.out").read_text())


def test_the_reason_of_a_failed_request_is_read() -> None:
    reason = failed_request((RECORDED / "refused.err").read_text())
    assert reason is not None
    assert "column timestamp: not finite" in reason
    assert failed_request((RECORDED / "unstable.err").read_text()) is None
