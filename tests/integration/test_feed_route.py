"""Feeds through an edge that hashes their names over two real servers, with the limits of the manifests.

ingress-nginx cannot run here. It hashes by a program of its own; here nginx does so by its directive `hash`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from reentry import schema
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports
from tests.contract.manifests import one, program
from tests.feed_client import until
from tests.gateway_servers import free_port
from tests.integration.test_edge import ANNOTATION
from tests.live_models import write_live_models
from tests.unit.export.test_track_graph import trapezoids

HEADER = "x-feed-id"
FEEDS = [f"radar-{number}" for number in range(32)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[EmbeddedServer]]:
    repository = write_live_models(tmp_path)
    with (
        EmbeddedServer(on_free_ports(repository, instances=1)) as first,
        EmbeddedServer(on_free_ports(repository, instances=1)) as second,
    ):
        yield [first, second]


@pytest.fixture
def gateway(servers: list[EmbeddedServer], tmp_path: Path) -> Iterator[str]:
    """Address of the gateway as host:port."""
    annotations = one("feeds-outside/ingress", "Ingress")["metadata"]["annotations"]
    assert annotations[f"{ANNOTATION}upstream-hash-by"] == f"$http_{HEADER.replace('-', '_')}"
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    pods = " ".join(f"server {server.grpc_url};" for server in servers)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\nevents {{}}\nhttp {{ access_log off;\n"
        + "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
        + f"\nupstream feeds {{ hash {annotations[f'{ANNOTATION}upstream-hash-by']} consistent; {pods} }}\n"
        f"server {{ listen 127.0.0.1:{port} http2; location / {{\n"
        f"client_max_body_size {annotations[f'{ANNOTATION}proxy-body-size']};\n"
        f"grpc_read_timeout {annotations[f'{ANNOTATION}proxy-read-timeout']};\ngrpc_pass grpc://feeds; }} }} }}\n"
    )
    process = subprocess.Popen([program("nginx"), "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"])
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            until(lambda: process.poll() is None and is_live(client))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def is_live(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_live())
    except InferenceServerException:
        return False


def send(client: triton.InferenceServerClient, feed: str, step: int, tracks: int = 1, *, start: bool = False) -> None:
    """Send a step of a flight, as the measurement of each of the tracks."""
    ids = np.arange(tracks)
    rows = np.tile(trapezoids()[0][step], (tracks, 1))
    inputs = [
        triton.InferInput("track_id", ids.shape, "INT64").set_data_from_numpy(ids),
        triton.InferInput("measurements", rows.shape, "FP64").set_data_from_numpy(rows),
    ]
    answer = client.infer(
        schema.REENTRY_SCAN.name, inputs, sequence_id=feed, sequence_start=start, headers={HEADER: feed}
    )
    assert answer.as_numpy("accepted").all()
    assert answer.as_numpy("started").all() == (step == 0 or start)


def is_known(client: triton.InferenceServerClient, feed: str) -> bool:
    """Send a step, again while the gateway finds the lost server; return False if the server does not know the feed."""
    known = []

    def is_answered() -> bool:
        try:
            send(client, feed, 5)
        except InferenceServerException as refusal:
            if refusal.status() == "StatusCode.UNAVAILABLE":
                return False
            if "must specify the START flag" not in str(refusal):
                raise
            known.append(False)
        else:
            known.append(True)
        return True

    until(is_answered)
    return known[0]


def test_a_feed_stays_on_its_server_and_only_the_feeds_of_a_lost_server_move(
    servers: list[EmbeddedServer], gateway: str
) -> None:
    with triton.InferenceServerClient(gateway) as client:
        for step in range(5):
            for feed in FEEDS:
                send(client, feed, step, start=step == 0)
        os.kill(servers[0].process_id, signal.SIGKILL)
        moved = [feed for feed in FEEDS if not is_known(client, feed)]
        assert 0 < len(moved) < len(FEEDS)
        for feed in moved:
            send(client, feed, 5, start=True)


def test_the_largest_scan_passes_the_gateway(gateway: str) -> None:
    with triton.InferenceServerClient(gateway) as client:
        send(client, "radar-3", 0, schema.LARGEST_SCAN, start=True)
