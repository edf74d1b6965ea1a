"""A real Triton with a short queue under more load than it can answer. No test looks at how long anything takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from perf import generator
from perf.generator import closed_loop, open_loop
from perf.messages import Load, prepare
from perf.stalls import measure_stalls
from reentry.errors import ClientError
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports

REASON = "Exceeds maximum queue size"
QUEUE = "[reentry_track]\ninstances = 2\nbatching = false\nmax_queue_size = 1\n"
"""Two requests run, one waits, and further ones are refused."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "tuned.toml"
    path.write_text(QUEUE)
    return path


@pytest.fixture(scope="module")
def short_queue(track_alone: Path, tuned: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(track_alone, tuned=tuned)) as server:
        yield server


@pytest.fixture(scope="module")
def load(short_queue: EmbeddedServer) -> Load:
    """Tracks that each take the server much longer than the generator needs to send one."""
    return prepare(short_queue.http_url, "reentry_track", steps=[3000, 3001])


def test_a_burst_gives_some_answers_and_some_refusals_and_none_hangs(load: Load) -> None:
    record = closed_loop(load, clients=32, count=96)
    assert record.sent == 96
    assert len(record.latencies) >= 2
    # Of the first 32 requests, two run and one waits; on a loaded machine, a few clients connect only after an answer.
    assert record.refusals.total() >= 20
    assert all(REASON in reason for reason in record.refusals)
    assert not record.failures
    assert record.lateness == []


def test_an_open_loop_sends_each_request_of_its_schedule_without_waiting_for_answers(load: Load) -> None:
    record = open_loop(load, rate=2000.0, seconds=0.05)
    assert record.sent == len(record.lateness) == 100
    assert record.refusals.total() > 0
    assert len(record.in_time) <= len(record.latencies)
    assert all(lateness >= 0.0 for lateness in record.lateness)


def test_an_open_loop_ends_once_too_many_requests_are_unanswered(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "CONNECTIONS", 3)
    record = open_loop(load, rate=1e6, seconds=0.001)
    assert record.overrun
    assert 3 <= record.sent < 1000
    assert not record.failures


def test_another_failure_than_a_refusal_ends_the_measurement(short_queue: EmbeddedServer, load: Load) -> None:
    unknown = Load(address=load.address, messages=[load.messages[0].replace(b"/reentry_track/", b"/nothing/", 1)])
    with pytest.raises(ClientError, match="5 of 5 requests failed") as error:
        closed_loop(unknown, clients=2, count=5)
    assert "unknown model" in (error.value.got or "")


def test_the_requests_of_a_stall_campaign_are_divided_among_the_numbers_of_clients(short_queue: EmbeddedServer) -> None:
    records = measure_stalls(short_queue.http_url, "reentry_track", requests=60, clients=(1, 2))
    assert {clients: record.sent for clients, record in records.items()} == {1: 30, 2: 30}


def test_the_command_reports_the_capacity_and_the_refusals_above_it(
    short_queue: EmbeddedServer, tmp_path: Path
) -> None:
    place = ["--url", f"http://{short_queue.http_url}", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli.app, ["perf", "overload", "--seconds", "0.3", "--factor", "50", *place])
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "overload.json").read_text())
    assert report["capacity"] == max(level["accepted"] for level in report["closed"])
    overload = report["overload"]
    assert overload["offered"] == pytest.approx(50 * report["capacity"])
    assert overload["offered"] > overload["accepted"] > 0.0
    assert 0.0 < overload["refused"] < 1.0
    assert all(REASON in reason for reason in overload["reasons"])
    assert report["reliable"] == (overload["late"] <= 0.01)
    assert (tmp_path / "overload.md").read_text() in shown.output
