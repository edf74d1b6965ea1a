"""The command `reentry stream` as a user runs it: files, standard input, signals, alerts and metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reentry.schema import MEASUREMENT_COLUMNS
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports
from tests.integration.test_stream import flights, whole_tracks
from tests.live_models import write_live_models

REENTRY = str(Path(sys.executable).with_name("reentry"))
DEADLINE = 240.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(write_live_models(tmp_path_factory.mktemp("live")))) as running:
        yield running


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Measurements of all flights in order of time."""
    tables = []
    for track, rows in flights().items():
        tables.append(pd.DataFrame(rows, columns=list(MEASUREMENT_COLUMNS)).assign(track_id=track))
    return pd.concat(tables).astype({"sensor_id": np.int64}).sort_values("timestamp", kind="stable")


@contextmanager
def running(server: EmbeddedServer, *arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command, killed after the block if it has not ended."""
    command = [REENTRY, "stream", *map(str, arguments), "--url", f"grpc://{server.grpc_url}"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def alerts_of(text: str) -> list[tuple[int, float]]:
    return sorted((alert["track_id"], alert["onset_timestamp"]) for alert in map(json.loads, text.splitlines()))


def expected_alerts() -> list[tuple[int, float]]:
    return sorted((track, onset) for track, (_, onset) in whole_tracks().items() if onset >= 0.0)


@pytest.mark.parametrize("mode", ["scan", "tracks"])
def test_a_file_gives_the_alerts_of_its_tracks(
    server: EmbeddedServer, table: pd.DataFrame, tmp_path: Path, mode: str
) -> None:
    table.to_csv(tmp_path / "tracks.csv", index=False)
    alerts = tmp_path / "out" / "alerts.jsonl"
    for run in (1, 2):  # the alerts of the second run are appended
        with running(
            server, tmp_path / "tracks.csv", "--rate", "max", "--mode", mode, "--alerts", alerts, "--json"
        ) as process:
            printed, errors = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, errors
            assert alerts_of(alerts.read_text()) == sorted(run * expected_alerts())
    summary = json.loads(printed)
    assert (summary["tracks"], summary["updates"], summary["alerts"]) == (5, len(table), len(expected_alerts()))


def test_lines_of_standard_input_give_alerts_on_standard_output_and_bad_lines_set_the_exit_status(
    server: EmbeddedServer, table: pd.DataFrame
) -> None:
    lines = [json.dumps(row) for row in table.to_dict("records")]
    lines.insert(50, "this is no measurement")
    with running(server, "-", "--alerts", "-", "--name", "lines", stdin=subprocess.PIPE) as process:
        printed, errors = process.communicate("\n".join(lines), timeout=DEADLINE)
        assert process.returncode == 1, errors
        assert alerts_of(printed) == expected_alerts()
        assert "standard input, line 51: not JSON" in errors
        assert "1 bad lines skipped" in errors


def test_an_alert_is_written_before_the_input_ends(server: EmbeddedServer, table: pd.DataFrame) -> None:
    with running(server, "-", "--alerts", "-", "--name", "waiting", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for row in table.to_dict("records"):
            process.stdin.write(json.dumps(row) + "\n")
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        assert (first["track_id"], first["onset_timestamp"]) in expected_alerts()
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 0


def test_each_sensor_may_be_a_feed_of_its_own(server: EmbeddedServer, table: pd.DataFrame, tmp_path: Path) -> None:
    table.assign(sensor_id=table["track_id"] % 2).to_csv(tmp_path / "tracks.csv", index=False)
    with running(
        server, tmp_path / "tracks.csv", "--rate", "max", "--feed-by", "sensor", "--alerts", "-", "--name", "radar"
    ) as process:
        printed, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors
        feeds = {alert["track_id"]: alert["feed"] for alert in map(json.loads, printed.splitlines())}
        assert feeds == {track: f"radar/{track % 2}" for track, _ in expected_alerts()}


def open_feeds(server: EmbeddedServer) -> int:
    """Number of feeds that the server has, by its metrics."""
    with urllib.request.urlopen(server.metrics_url, timeout=DEADLINE) as page:
        values = re.findall(r"^reentry_live_feeds\{.*\} (\S+)$", page.read().decode(), re.MULTILINE)
    return sum(int(float(value)) for value in values)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_feed_on_the_server_and_keeps_the_alerts(
    server: EmbeddedServer, table: pd.DataFrame, number: int
) -> None:
    with running(server, "-", "--alerts", "-", "--name", f"ended-{number}", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for row in table.to_dict("records"):
            process.stdin.write(json.dumps(row) + "\n")
        process.stdin.flush()
        assert process.stdout.readline()
        wait_until(lambda: open_feeds(server) == 1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130, errors
        assert "interrupted: the alerts so far are in" in errors
        wait_until(lambda: open_feeds(server) == 0)


def test_a_signal_ends_the_command_although_the_server_hangs(server: EmbeddedServer, table: pd.DataFrame) -> None:
    options = ("-", "--alerts", "-", "--name", "hung", "--feed-by", "sensor")
    with running(server, *options, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for row in table.assign(sensor_id=table["track_id"]).to_dict("records"):
            process.stdin.write(json.dumps(row) + "\n")
        process.stdin.flush()
        assert process.stdout.readline()
        os.kill(server.process_id, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=DEADLINE)
        finally:
            os.kill(server.process_id, signal.SIGCONT)
        assert process.returncode == 130, errors


def test_the_command_ends_with_an_error_when_no_server_answers(table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "tracks.csv", index=False)
    command = [REENTRY, "stream", str(tmp_path / "tracks.csv"), "--alerts", "-"]
    command += ["--url", "grpc://127.0.0.1:1", "--patience", "0.5", "--rate", "max"]
    ended = subprocess.run(command, text=True, capture_output=True, timeout=DEADLINE, check=False)
    assert ended.returncode == 1
    assert "error: grpc://127.0.0.1:1: no answer from the server for" in ended.stderr


def test_metrics_are_served_while_the_command_runs(server: EmbeddedServer, table: pd.DataFrame) -> None:
    with running(
        server, "-", "--alerts", "-", "--name", "measured", "--metrics-port", "0", stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("metrics: ").strip()
        process.stdin.write(json.dumps(table.to_dict("records")[0]) + "\n")
        process.stdin.flush()

        def updates() -> str:
            with urllib.request.urlopen(address) as page:
                lines = page.read().decode().splitlines()
            return next((line for line in lines if line.startswith("reentry_stream_updates_total")), "")

        wait_until(lambda: updates() == 'reentry_stream_updates_total{feed="measured"} 1')
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
