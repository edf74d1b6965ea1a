"""The load test against a real Triton."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from client.connection import Endpoint
from perf.load import LoadConfig, measure_load
from reentry.errors import ConfigError, ReentryError
from reentry.serving import EmbeddedServer


def test_throughput_is_the_number_of_answers_divided_by_the_time(server: EmbeddedServer) -> None:
    config = LoadConfig(concurrency=(1, 3), batch=2, steps=20, seconds=1.0)
    levels = measure_load(Endpoint.parse(f"grpc://{server.grpc_url}"), config, session=server.process_id)
    assert [level.concurrency for level in levels] == [1, 3]
    for level in levels:
        assert level.unanswered == 0
        # Clients ask without a pause: together they wait `concurrency` times the time that passes.
        took = 2 * len(level.latencies) / level.tracks_per_second
        assert took >= 1.0
        assert 0.5 * level.concurrency * took < sum(level.latencies) <= level.concurrency * took
        assert level.server_seconds is not None
        assert 0.0 < level.server_seconds < 10.0 * took
        assert 1e3 * min(level.latencies) <= level.percentile(50) <= level.percentile(99) <= 1e3 * max(level.latencies)


def test_an_unreachable_server_is_an_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"grpc://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ReentryError):
            measure_load(Endpoint.parse(nobody), LoadConfig(seconds=0.1))


@pytest.mark.parametrize("wrong", [{"concurrency": ()}, {"concurrency": (0,)}, {"batch": 0}, {"seconds": 0.0}])
def test_an_impossible_load_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        LoadConfig(**wrong)


def test_the_command_loads_a_running_server_and_prints_each_concurrency(server: EmbeddedServer) -> None:
    command = [sys.executable, "-m", "perf.load", "--url", f"http://{server.http_url}"]
    size = ["--concurrency", "2", "--steps", "20", "--seconds", "0.2"]
    done = subprocess.run([*command, *size], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    heading, row = done.stdout.splitlines()[-2:]
    assert heading.split() == [
        "concurrency",
        "tracks/s",
        "p50",
        "ms",
        "p95",
        "ms",
        "p99",
        "ms",
        "unanswered",
        "CPU",
        "ms/track",
    ]
    assert row.split()[0] == "2"
    assert row.split()[-1] == "-"  # this server is not the command's own
    assert float(row.split()[1].replace(",", "")) > 0
