"""The real perf_analyzer against a real Triton, in sweeps and searches. No test looks at how long anything takes."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import cli
from client.batching import RequestBatch
from client.connection import Array, Connection, Endpoint
from export.stream_graph import stream_graph
from perf.analyzer import ceiling
from perf.analyzer.config import PerfConfig
from perf.analyzer.headline import shares_of
from perf.analyzer.installation import check_analyzer
from perf.analyzer.report import markdown
from perf.analyzer.slo import Objective
from perf.analyzer.sweep import run_perf
from perf.scoring import draw_flights
from reentry.errors import ClientError, ConfigError
from reentry.runtime.cores import cores
from reentry.schema import (
    ENSEMBLE,
    MEASUREMENTS,
    ONSET_STEP,
    PROBABILITY,
    REENTRY_TRACK,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
    Model,
)
from reentry.serving import EmbeddedServer
from tests.conftest import REPOSITORY, make_repository, on_free_ports
from tests.exporting import deciding
from tests.versions import bare_repository, install
from training.config import ModelConfig

CHECK = check_analyzer()
pytestmark = pytest.mark.skipif("lacks libb64" in CHECK.found, reason=f"{CHECK.found}; {CHECK.fix}")

# A window is longer than the 500 ms that Triton's scheduler costs a request when it loses a wake-up.
SHORT = {"lengths": ("50",), "window": 0.6, "windows": 3, "recorded": 0}


def test_a_sweep_over_all_paths_and_protocols_answers_every_request_alike(two_paths: Path, tmp_path: Path) -> None:
    config = tmp_path / "perf.toml"
    config.write_text(
        '[perf]\nmodels = ["reentry", "reentry_track"]\nprotocols = ["grpc", "http", "shared-memory"]\n'
        'lengths = ["50"]\nconcurrency = [4]\nwindow = 0.6\nwindows = 3\nstability = 400\nrecorded = 0\n'
    )
    with EmbeddedServer(on_free_ports(two_paths, open_shared_memory=True)) as server:
        urls = ["--url", f"grpc://{server.grpc_url}", "--url", f"http://{server.http_url}"]
        arguments = ["--config", str(config), "--repository", str(two_paths), "--out", str(tmp_path / "out"), *urls]
        shown = CliRunner().invoke(cli.app, ["perf", "run", *arguments])
        answers = [asyncio.run(answers_of(server, model)) for model in (ENSEMBLE, REENTRY_TRACK)]
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "out/perf.json").read_text())
    assert report["versions"]["server"] == "2.51.0"
    assert report["versions"]["perf_analyzer"] == "2.51.0"
    paths = [(result["model"], result["protocol"]) for result in report["results"]]
    models, protocols = ("reentry", "reentry_track"), ("grpc", "http", "shared-memory")
    assert paths == [(model, protocol) for model in models for protocol in protocols]
    assert "manifest" in report["ceiling"]["missing"]["track.onnx"]
    assert report["ceiling"]["rates"] == []
    for result in report["results"]:
        figures, members = result["figures"], result["figures"]["members"]
        assert result["failure"] is None
        assert figures["requests"] > 0
        assert 0.0 < figures["p50"] <= figures["p90"] <= figures["p95"] <= figures["p99"]
        assert figures["server"]["compute_infer"] > 0.0
        if result["model"] == "reentry":
            assert members.keys() == {"track_features", "reentry_lstm", "track_decision"}
            times = sum(member["compute_infer"] for member in members.values())
            assert figures["server"]["compute_infer"] == pytest.approx(times)
        else:
            assert members == {}
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one[PROBABILITY.name], other[PROBABILITY.name], atol=1e-5)
        np.testing.assert_array_equal(one[ONSET_STEP.name], other[ONSET_STEP.name])
    assert {int(answer[ONSET_STEP.name].item()) for answer in answers[0]} - {-1}, "no track has an onset"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("perf.csv", "perf.json", "perf.md", "throughput.png", "times.png")
    ]


async def answers_of(server: EmbeddedServer, model: Model) -> list[dict[str, Array]]:
    """Answers of a model to single tracks of several lengths."""
    async with Connection(Endpoint.parse(f"grpc://{server.grpc_url}"), timeout=60.0) as connection:
        groups = [RequestBatch((draw_flights(1, steps, seed=steps)[0],)) for steps in (20, 50, 200)]
        inputs = [
            {
                TRACK_ID_TENSOR.name: group.track_ids(),
                TRACK_LENGTH.name: group.lengths(),
                MEASUREMENTS.name: group.measurements(),
            }
            for group in groups
        ]
        return [await connection.infer(model, values) for values in inputs]


def test_a_search_measures_each_candidate_and_confirms_the_best_in_turns(track_alone: Path, tmp_path: Path) -> None:
    repository, out = tmp_path / "repository", tmp_path / "out"
    shutil.copytree(track_alone, repository)
    pbtxt = repository / "reentry_track/config.pbtxt"
    # Without a bounded queue no request can stall for longer than a window.
    before = re.sub(r"\ndynamic_batching \{.*?\n\}\n", "\n", pbtxt.read_text(), flags=re.DOTALL)
    pbtxt.write_text(before)
    config = tmp_path / "tune.toml"
    config.write_text(
        '[perf]\nbatches = [1]\nconcurrency = [2]\nlengths = ["50"]\nwindow = 0.3\nwindows = 3\nstability = 500\n'
        f"recorded = 0\n[tune]\ninstances = [{cores() + 1}]\nthreads = [1]\nqueue_delays = []\nturns = 1\n"
    )
    arguments = ["--config", str(config), "--repository", str(repository), "--out", str(out), "--slo", "p99=600s"]
    shown = CliRunner().invoke(cli.app, ["perf", "tune", *arguments])
    assert shown.exit_code == 0, shown.output
    assert pbtxt.read_text() == before
    report = json.loads((out / "tune.json").read_text())
    assert report["objective"] == "p99 <= 600000 ms"
    assert report["versions"]["server"] == "2.51.0"
    assert [each["settings"]["instances"] for each in report["candidates"]] == [cores(), cores() + 1]
    assert all(result["failure"] is None for each in report["candidates"] for result in each["results"])
    assert [each["present"] for each in report["finalists"]] == [True, False]
    assert [len(each["turns"]) for each in report["finalists"]] == [1, 1]
    names = {path.name for path in out.iterdir()}
    assert names == {"tune.csv", "tune.json", "tune.md"} | ({"tuned.toml"} if report["better"] else set())


def test_batches_of_mixed_lengths_are_sent_at_a_rate_to_a_running_server(
    server: EmbeddedServer, two_paths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = (two_paths / "reentry_track/1/model.onnx").read_bytes()
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1, files={"track.onnx": graph})
    monkeypatch.setattr(ceiling, "cores", lambda: 1)
    config = PerfConfig(
        **SHORT | {"lengths": ("20-60",), "recorded": 20},
        batches=(3,),
        concurrency=(),
        rates=(30.0,),
        distributions=("poisson",),
        stability=500.0,
    )
    report = run_perf(config, urls=[f"grpc://{server.grpc_url}"], repository=repository)
    (result,) = report.results
    assert (result.workload.load, result.workload.level) == ("poisson", 30.0)
    assert result.failure is None
    assert result.figures is not None
    assert result.recorded == 30  # perf_analyzer sends requests for a second at least
    assert report.urls == (f"grpc://{server.grpc_url}",)
    assert report.versions["onnxruntime"] == "unknown"
    (rate,) = report.ceiling.rates
    assert (rate.batch, rate.length, len(rate.windows)) == (3, "20-60", 3)
    assert report.ceiling.remote
    assert report.ceiling.missing.keys() == {"step.onnx"}
    (share,) = shares_of(report)
    assert share.share == result.figures.tracks_per_second / rate.median


def test_an_unstable_level_has_figures_and_does_not_hold_a_limit(server: EmbeddedServer) -> None:
    config = PerfConfig(**SHORT, protocols=("http",), concurrency=(1,), stability=0.1)
    report = run_perf(config, urls=[f"http://{server.http_url}"], objective=Objective(99, 1e6))
    (result,) = report.results
    assert "--repository" in report.ceiling.missing["track.onnx"]
    assert result.status == "unstable"
    assert result.recorded == 0
    assert result.figures is not None
    assert [each.level for each in report.highest] == [None]


def test_a_queue_that_is_full_fails_the_level(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    features = repository / "track_features" / "config.pbtxt"
    features.write_text(features.read_text().replace("max_queue_size: 512", "max_queue_size: 1"))
    report = run_perf(PerfConfig(**SHORT, concurrency=(64,)), urls=[], repository=repository)
    assert "queue size" in (report.results[0].failure or "")
    assert report.failed


def test_live_tracks_are_measured_as_sequences(tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    (repository / "reentry_stream/1").mkdir(parents=True)
    shutil.copy(REPOSITORY / "reentry_stream/config.pbtxt", repository / "reentry_stream")
    onnx.save(stream_graph(deciding(ModelConfig(hidden=8)), 1), repository / "reentry_stream/1/model.onnx")
    live = {"models": ("reentry_stream",), "concurrency": (3,), "stability": 500.0}
    for _ in range(5):  # rarely the server does not know a sequence of perf_analyzer, for an unknown reason
        report = run_perf(PerfConfig(**SHORT | live | {"recorded": 20}), urls=[], repository=repository)
        (result,) = report.results
        if "must specify the START flag" not in (result.failure or ""):
            break
    assert result.failure is None
    assert result.figures is not None
    assert result.figures.requests > 0
    assert result.recorded >= 20
    assert "`tracks/s` counts updates" in markdown(report)


def test_a_server_that_restricts_shared_memory_is_named_in_the_error(server: EmbeddedServer) -> None:
    config = PerfConfig(**SHORT, protocols=("shared-memory",), concurrency=(1,))
    with pytest.raises(ClientError, match="perf_analyzer failed") as error:
        run_perf(config, urls=[f"grpc://{server.grpc_url}"])
    assert "restricted" in (error.value.got or "")
    assert "omit --url" in (error.value.fix or "")


def test_a_model_that_the_server_lacks_or_that_has_other_inputs_is_named(server: EmbeddedServer) -> None:
    for model, problem in (("nothing", "unknown model"), ("reentry_lstm", "reentry_lstm cannot be measured")):
        with pytest.raises(ClientError, match=problem):
            run_perf(PerfConfig(models=(model,)), urls=[f"grpc://{server.grpc_url}"])


def test_a_measurement_needs_a_repository_or_a_url() -> None:
    with pytest.raises(ConfigError, match="no server to measure"):
        run_perf(PerfConfig())


def test_a_protocol_without_a_url_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no URL for the protocol http") as error:
        run_perf(PerfConfig(protocols=("grpc", "http")), urls=["grpc://127.0.0.1:1"])
    assert error.value.expected == "http://HOST:PORT"


def test_an_interrupted_run_ends_perf_analyzer_and_writes_nothing(server: EmbeddedServer, tmp_path: Path) -> None:
    reentry = Path(sys.executable).with_name("reentry")
    with subprocess.Popen(
        [reentry, "perf", "run", "--url", f"grpc://{server.grpc_url}", "--out", tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        deadline = time.monotonic() + 240.0
        while "perf_analyzer" not in "".join(map(_name_of, children.read_text().split())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (child,) = children.read_text().split()
        run.send_signal(signal.SIGTERM)
        assert run.stderr is not None
        assert "interrupted: no report was written" in run.stderr.read()
    assert run.returncode == 130
    assert not Path(f"/proc/{child}").exists()
    assert not (tmp_path / "out").exists()


def _name_of(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:  # the process has ended
        return ""
