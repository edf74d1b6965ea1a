"""The paced replay of live tracks against a real Triton. No test looks at how long anything takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

import cli
from client.connection import ServerUnavailableError
from export.scan_graph import scan_graph
from export.stream_graph import stream_graph
from export.track_graph import track_graph
from perf.stream import replay, traffic
from perf.stream.config import StreamConfig
from perf.stream.measure import measure_stream
from reentry.errors import ClientError, ConfigError
from reentry.schema import REENTRY_STREAM
from reentry.serving import EmbeddedServer
from tests.conftest import REPOSITORY, on_free_ports
from tests.gateway_servers import free_port
from tests.unit.export.test_track_graph import default

SLOTS = 8
"""Live tracks for each instance of reentry_stream."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of live tracks and reentry_track, all with the same network."""
    folder = tmp_path_factory.mktemp("live") / "model_repository"
    shutil.copytree(REPOSITORY / "reentry_scan", folder / "reentry_scan")
    for name, graph in (("scan_step", scan_graph), ("reentry_stream", stream_graph), ("reentry_track", track_graph)):
        (folder / name / "1").mkdir(parents=True)
        shutil.copy(REPOSITORY / name / "config.pbtxt", folder / name)
        onnx.save(graph(default(), 1), folder / name / "1" / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(repository)) as running:
        yield running


@pytest.mark.parametrize("mode", ["scan", "tracks"])
def test_each_measurement_of_a_schedule_is_answered_as_in_the_whole_track(
    server: EmbeddedServer, tmp_path: Path, mode: str
) -> None:
    load = ["--mode", mode, "--tracks", "21", "--feeds", "2", "--rate", "4", "--duration", "3"]
    place = ["--url", f"grpc://{server.grpc_url}", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli.app, ["perf", "stream", *load, *place])
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "stream.json").read_text())
    figures, agreement = report["figures"], report["agreement"]
    assert figures["requests"] == (24 if mode == "scan" else 252)
    assert figures["offered"] == 84.0
    assert 0.0 < figures["achieved"] <= 84.0
    assert figures["unaccepted"] == 0
    assert figures["errors"] == {}
    assert 0.0 < figures["latency"]["p50"] <= figures["latency"]["p99"] <= figures["latency"]["max"]
    assert agreement["model"] == "reentry_track"
    assert agreement["tracks"] == 8
    assert agreement["measurements"] == 8 * 13  # the first one starts the track
    assert agreement["largest"] <= 1e-5
    assert report["server_cpu"] is None
    assert (tmp_path / "stream.md").read_text() in shown.output


def test_a_closed_loop_measures_an_embedded_server_with_its_memory(repository: Path) -> None:
    config = StreamConfig(mode="tracks", tracks=5, rate=None, duration=1.0, in_flight=3)
    report = measure_stream(config, repository=repository)
    assert not report.failed
    assert report.figures.requests >= 3
    assert report.figures.offered is None
    assert report.server_cpu is not None
    assert report.server_cpu > 0.0
    assert report.memory[0].mebibytes > 10.0


def test_a_replay_can_be_repeated_on_the_same_server(server: EmbeddedServer) -> None:
    config = StreamConfig(mode="scan", tracks=3, rate=None, duration=0.2)
    for _ in range(2):
        report = measure_stream(config, url=f"grpc://{server.grpc_url}", repository=Path("unused"))
        assert not report.failed
        assert report.agreement.tracks == 3


def test_more_tracks_than_slots_end_with_a_fix(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = shutil.copytree(repository, tmp_path / "few")
    config = few / "reentry_stream/config.pbtxt"
    text = config.read_text()
    changed = text.replace("max_candidate_sequences: 2048", f"max_candidate_sequences: {SLOTS}")
    assert changed != text
    config.write_text(changed)
    monkeypatch.setattr(replay, "_TIMEOUT", 2.0)
    with (
        EmbeddedServer(on_free_ports(few)) as crowded,
        pytest.raises(ClientError, match="the server started") as refused,
    ):
        measure_stream(
            StreamConfig(mode="tracks", tracks=1000), url=f"grpc://{crowded.grpc_url}", repository=Path("unused")
        )
    assert "max_candidate_sequences" in (refused.value.fix or "")


def test_a_server_without_the_model_is_an_error(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StreamConfig(mode="tracks", tracks=2, duration=0.1)
    monkeypatch.setattr(traffic, "REENTRY_STREAM", replace(REENTRY_STREAM, name="nothing"))
    with pytest.raises(ClientError, match="refused to start 2 of 2 sequences") as refused:
        measure_stream(config, url=f"grpc://{server.grpc_url}", repository=Path("unused"))
    assert "unknown model" in (refused.value.got or "")


def test_the_url_must_be_of_grpc() -> None:
    with pytest.raises(ConfigError, match="not a gRPC URL"):
        measure_stream(StreamConfig(tracks=1), url="http://127.0.0.1:8000", repository=Path("unused"))


def test_an_address_where_nothing_listens_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnavailableError) as error:
        measure_stream(StreamConfig(tracks=1), url=f"grpc://{address}", repository=Path("unused"))
    assert error.value.where == address
