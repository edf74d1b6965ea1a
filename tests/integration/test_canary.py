"""A canary is judged by a real Prometheus that scrapes two real Tritons, and a bad one is aborted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from pipeline.canary.config import SameTracks
from pipeline.canary.figures import histogram
from pipeline.canary.prometheus import Prometheus as Client
from pipeline.canary.same_tracks import read_sample, score_pairs
from pipeline.canary.statistics import quantile
from reentry import schema
from reentry.serving import EmbeddedServer
from reentry.tracks import write_tracks
from tests.conftest import grpc_key, make_repository, on_free_ports
from tests.contract.test_k8s_scripts import IMAGE, REMOVE, Cluster, route, running_cluster
from tests.gateway_servers import running_gateway, wait_until
from tests.integration.test_monitoring import write_reference
from tests.integration.test_serving import make_tracks, request_inputs
from tests.prometheus import Prometheus, running_prometheus
from tests.toy_model import write_toy_model
from tests.versions import pin

TRACKS, STEPS = 4, 60

OTHER_ONSETS, FAILING, NO_ONSETS = 2, 3, 4
"""Bad versions of the network. Tracks of version 1 have their onset at step 0; the others mark it near the middle, give
probabilities above 1, which the server refuses to answer, and find no onset."""

SETTINGS = """\
[canary]
window = 20
baseline = 120
interval = 1
min_requests = 50
min_tracks = 100
error_margin = 0.05
# The tests share their cores with others.
p99_ratio = 100.0
p99_floor = 5.0
max_p99 = 9.0
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A repository for each release; that of the canary has bad versions too, and serves the good one."""
    made = {name: make_repository(tmp_path_factory.mktemp(name)) for name in ("stable", "canary")}
    for repository in made.values():
        write_reference(repository / "reentry_lstm" / "1")
    network = made["canary"] / "reentry_lstm"
    write_toy_model(network / str(OTHER_ONSETS) / "model.onnx", version=OTHER_ONSETS, seed=3)
    write_toy_model(network / str(NO_ONSETS) / "model.onnx", version=NO_ONSETS, seed=6)
    write_toy_model(network / str(FAILING) / "model.onnx", version=FAILING, fault="values")
    for version in (OTHER_ONSETS, NO_ONSETS, FAILING):
        write_reference(network / str(version))
    return made


@pytest.fixture(scope="module")
def servers(repositories: dict[str, Path]) -> Iterator[dict[str, EmbeddedServer]]:
    with (
        EmbeddedServer(on_free_ports(repositories["stable"])) as stable,
        EmbeddedServer(on_free_ports(repositories["canary"])) as canary,
    ):
        yield {"stable": stable, "canary": canary}


@pytest.fixture(scope="module")
def prometheus(servers: dict[str, EmbeddedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes both releases."""
    targets = {
        name: server.metrics_url.removeprefix("http://").removesuffix("/metrics") for name, server in servers.items()
    }
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, server=targets["stable"], canary=targets["canary"]) as running:
        yield running


@pytest.fixture(scope="module")
def load(servers: dict[str, EmbeddedServer]) -> Iterator[threading.Event]:
    """Traffic to both releases, from when the event is set until the tests end."""
    begun, ended = threading.Event(), threading.Event()

    def send(server: EmbeddedServer) -> None:
        begun.wait()
        with triton.InferenceServerClient(server.grpc_url) as client:
            for number in range(1_000_000):
                if ended.wait(0.04):
                    return
                try:
                    client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(TRACKS, STEPS, seed=number)))
                except InferenceServerException:
                    continue  # of the version that fails, or while a version is loaded

    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(send, server) for server in servers.values()]
        try:
            yield begun
        finally:
            begun.set()
            ended.set()
        for each in sending:
            each.result()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "canary.toml"
    file.write_text(SETTINGS)
    return file


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of tracks that both releases score."""
    tracks = make_tracks(80, STEPS, seed=7)
    rows = pd.DataFrame(tracks.reshape(-1, tracks.shape[-1]), columns=list(schema.MEASUREMENT_COLUMNS))
    rows["track_id"] = np.repeat(np.arange(len(tracks)), STEPS)
    rows["sensor_id"] = rows["sensor_id"].astype(int)
    file = tmp_path_factory.mktemp("sample") / "tracks.csv"
    write_tracks(file, rows)
    return file


def serve(repository: Path, server: EmbeddedServer, version: int) -> None:
    """Change the version of the network that a server serves."""
    pin(repository, version)
    with triton.InferenceServerClient(server.grpc_url) as client:
        client.load_model(schema.REENTRY_LSTM.name, headers=grpc_key(server))
        wait_until(client.is_server_ready, what="a server without a version that is being unloaded")


def judged(prometheus: Prometheus, settings: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status of the command, and its checks by name."""
    program = Path(sys.executable).with_name("reentry")
    command = [program, "--quiet", "canary", "judge", "--prometheus", prometheus.url, "--config", settings, "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr
    content = json.loads(done.stdout)
    assert {0: "pass", 1: "fail", 3: "inconclusive"}[done.returncode] == content["verdict"]
    return done.returncode, {check["name"]: check for check in content["checks"]}


def until_failed(
    prometheus: Prometheus, settings: Path, name: str, *options: str, decided: bool = False
) -> dict[str, Any]:
    """Judge until a check fails, with `decided` until no check is inconclusive either, and return all checks."""
    deadline = time.monotonic() + 400.0
    while True:
        _, checks = judged(prometheus, settings, *options)
        verdicts = {check["verdict"] for check in checks.values()}
        if checks[name]["verdict"] == "fail" and not (decided and "inconclusive" in verdicts):
            return checks
        assert time.monotonic() < deadline, checks


def test_a_canary_without_traffic_does_not_pass(prometheus: Prometheus, settings: Path) -> None:
    status, checks = judged(prometheus, settings)
    assert status == 3
    assert {check["verdict"] for check in checks.values()} == {"inconclusive"}


def test_a_canary_like_the_stable_release_passes(
    servers: dict[str, EmbeddedServer], prometheus: Prometheus, load: threading.Event, settings: Path, sample: Path
) -> None:
    load.set()
    status, checks = judged(prometheus, settings, "--wait", "300")
    assert status == 0, checks
    figures = {name: value for check in checks.values() for name, value in check["figures"].items()}
    assert figures["canary_error_ratio"] == figures["stable_error_ratio"] == 0.0
    # Prometheus divides sums of rounded rates.
    assert [figures[f"{release}_alarm_share"] for release in ("canary", "stable")] == pytest.approx([1.0, 1.0])
    assert figures["canary_psi.altitude_fraction"] < 0.25
    assert 0.0 < figures["canary_p99"] < 9.0
    for check in checks.values():
        assert all(prometheus.query(query) for query in check["queries"])
    same = SameTracks(
        stable=f"grpc://{servers['stable'].grpc_url}", canary=f"grpc://{servers['canary'].grpc_url}", tracks=sample
    )
    pairs = score_pairs(same, read_sample(same))
    assert (pairs.tracks, pairs.agreeing) == (80, 80)


def test_a_quantile_is_that_of_prometheus(prometheus: Prometheus) -> None:
    rates = 'sum by (le) (increase(reentry_inference_duration_seconds_bucket{job="reentry",release="stable"}[60s]))'
    found = Client(prometheus.url).series(
        f"{rates} or label_replace(histogram_quantile(0.9, {rates}), 'le', 'q', '', '')"
    )
    (expected,) = [each.value for each in found if each.labels["le"] == "q"]
    buckets = histogram(each for each in found if each.labels["le"] != "q")
    assert quantile(buckets, 0.9) == pytest.approx(expected, rel=1e-9)


def test_a_canary_with_other_onsets_fails_only_if_both_score_the_same_tracks(
    servers: dict[str, EmbeddedServer],
    repositories: dict[str, Path],
    prometheus: Prometheus,
    settings: Path,
    sample: Path,
) -> None:
    serve(repositories["canary"], servers["canary"], OTHER_ONSETS)
    urls = [f"grpc://{servers[name].grpc_url}" for name in ("stable", "canary")]
    checks = until_failed(
        *(prometheus, settings, "agreement", "--tracks", str(sample), "--stable", urls[0], "--canary", urls[1]),
        decided=True,
    )
    assert checks["agreement"]["figures"]["agreeing_tracks"] == 0
    assert [check["verdict"] for check in checks.values()] == ["pass", "pass", "pass", "fail"]


def test_a_canary_whose_requests_fail_has_a_bad_error_ratio(
    servers: dict[str, EmbeddedServer], repositories: dict[str, Path], prometheus: Prometheus, settings: Path
) -> None:
    serve(repositories["canary"], servers["canary"], FAILING)
    figures = until_failed(prometheus, settings, "error ratio")["error ratio"]["figures"]
    assert figures["canary_error_ratio"] > 0.0
    assert figures["stable_error_ratio"] == 0.0


@pytest.fixture
def cluster(servers: dict[str, EmbeddedServer], tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose pods are the canary's, with the judge of this checkout."""
    url = f"grpc://{servers['canary'].grpc_url}"
    with (
        running_gateway(tmp_path, triton_url=url) as gateway,
        running_cluster(tmp_path, servers["canary"], gateway) as running,
    ):
        (tmp_path / "reentry").symlink_to(Path(sys.executable).with_name("reentry"))
        yield running


def test_a_canary_without_onsets_is_aborted(
    servers: dict[str, EmbeddedServer],
    repositories: dict[str, Path],
    prometheus: Prometheus,
    settings: Path,
    cluster: Cluster,
) -> None:
    serve(repositories["canary"], servers["canary"], NO_ONSETS)
    shares = until_failed(prometheus, settings, "agreement")["agreement"]["figures"]
    assert shares["canary_alarm_share"] < shares["stable_alarm_share"] == pytest.approx(1.0)
    result = cluster.run(
        *("canary.sh", "auto", IMAGE, "--prometheus", prometheus.url, "--config", str(settings), "--wait", "120")
    )
    assert result.returncode == 1, result.stdout
    assert "error: the canary failed" in result.stderr
    assert re.search(r"agreement +fail", result.stdout)
    weights = [line for line in cluster.changes if line.startswith("annotate --overwrite ingress")]
    assert weights == [route(5), route(0)]
    assert cluster.changes[-3:] == [route(0), *REMOVE]
