"""nginx as the edge before a real gateway and a real Triton, with the routes and limits of the manifests.

Everything passes the gateway, except the live feeds of k8s/feeds-outside, which go straight to Triton.

ingress-nginx cannot run here. The tests rebuild what it generates for an Ingress: one location for each path, with the
variables and directives that its template gives a location.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from reentry import schema
from reentry.serving import EmbeddedServer
from tests.contract.manifests import GATEWAY, one, program, routes
from tests.gateway_servers import GatewayProcess, free_port, running_gateway
from tests.integration.test_serving import make_tracks, request_inputs

FEEDS = "feeds-outside/ingress"
ANNOTATION = "nginx.ingress.kubernetes.io/"


@dataclass(frozen=True)
class Edge:
    """Addresses of the edge as host:port, one for each Ingress."""

    gateway: str
    feeds: str

    def status_of(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        """Send a request to the gateway and return the status of the response."""
        connection = http.client.HTTPConnection(self.gateway, timeout=60)
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


def locations(folder: str, upstream: str) -> str:
    """Return the locations that ingress-nginx makes of the Ingress of a folder."""
    snippet = one("edge", "ConfigMap")["data"]["location-snippet"]
    blocks = [] if folder != FEEDS else ["location / { return 404; }"]
    for found, _, path, _ in routes(folder):
        annotations = found["metadata"]["annotations"]
        grpc = annotations.get(f"{ANNOTATION}backend-protocol") == "GRPC"
        pass_to = f"grpc_pass grpc://{upstream};" if grpc else f"proxy_pass http://{upstream};"
        limit = f"client_max_body_size {annotations[f'{ANNOTATION}proxy-body-size']};"
        match = f"= {path}" if grpc else path
        blocks.append(f'location {match} {{ set $namespace "reentry"; {limit} {pass_to}\n{snippet} }}')
    return "\n".join(blocks)


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    url = f"grpc://{server.grpc_url}"
    with running_gateway(tmp_path_factory.mktemp("gateway"), triton_url=url) as process:
        yield process


@pytest.fixture(scope="module")
def edge(server: EmbeddedServer, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    nginx = program("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    ports = {"gateway": free_port(), "feeds": free_port()}
    upstream = gateway.url.removeprefix("http://")
    servers = (
        f"server {{ listen 127.0.0.1:{ports['gateway']};\n{locations('overlays/production', upstream)} }}\n"
        f"server {{ listen 127.0.0.1:{ports['feeds']} http2;\n{locations(FEEDS, server.grpc_url)} }}"
    )
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{servers} }}\n"
    )
    process = subprocess.Popen([nginx, "-c", config, "-e", folder / "error.log", "-p", folder])
    edge = Edge(**{name: f"127.0.0.1:{port}" for name, port in ports.items()})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                edge.status_of("GET", "/")
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield edge
    finally:
        process.terminate()
        process.wait()


def test_the_edge_leads_to_the_gateway(edge: Edge) -> None:
    assert edge.status_of("GET", "/health/live") == 200
    assert edge.status_of("GET", "/health/ready") == 200


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/models/reentry/trace/setting", "/metrics", "/v1/keys"])
def test_nothing_else_is_open_without_a_key(edge: Edge, path: str) -> None:
    assert edge.status_of("GET", path) in (401, 404)
    assert edge.status_of("POST", path, b"{}") in (401, 404)


def test_an_upload_beyond_the_limit_is_refused_before_it_is_sent(edge: Edge) -> None:
    limit = one("overlays/production", "ConfigMap", gateway_config())["data"]["REENTRY_GATEWAY_LARGEST_UPLOAD"]
    with socket.create_connection(edge.gateway.split(":"), timeout=60) as connection:
        connection.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: {int(limit) + 1}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def gateway_config() -> str:
    (container,) = one("overlays/production", "Deployment", GATEWAY)["spec"]["template"]["spec"]["containers"]
    return str(container["envFrom"][0]["configMapRef"]["name"])


def test_scans_are_scored_through_the_route_of_feeds(edge: Edge) -> None:
    with triton.InferenceServerClient(edge.feeds) as client:
        answer = client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(2, 30)))
    assert answer.as_numpy("reentry_probability").shape == (2, 30)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_refused_before_a_server_unpacks_it(edge: Edge, algorithm: str) -> None:
    assert edge.status_of("GET", "/health/live", **{"Content-Encoding": algorithm}) == 415
    inputs = request_inputs(make_tracks(2, 30))
    with (
        triton.InferenceServerClient(edge.feeds) as client,
        pytest.raises(triton.InferenceServerException, match="415"),
    ):
        client.infer(schema.ENSEMBLE.name, inputs, compression_algorithm=algorithm)


def test_a_message_beyond_the_limit_is_refused_and_the_server_stays_ready(edge: Edge) -> None:
    name = schema.MEASUREMENTS.name
    inputs = request_inputs(make_tracks(1, 30))
    huge = triton.InferInput(name, (1, 400_000, 6), "FP64")
    huge.set_data_from_numpy(np.zeros((1, 400_000, 6)))
    inputs = [huge if each.name() == name else each for each in inputs]
    with triton.InferenceServerClient(edge.feeds) as client:
        with pytest.raises(triton.InferenceServerException, match="413"):
            client.infer(schema.ENSEMBLE.name, inputs)
        assert client.is_model_ready(schema.ENSEMBLE.name)


def test_a_message_with_a_shape_larger_than_its_data_is_refused_by_the_server(edge: Edge) -> None:
    request = service_pb2.ModelInferRequest(model_name=schema.ENSEMBLE.name)
    for tensor in schema.ENSEMBLE.inputs:
        shape = [1, 100_000_000, 6] if tensor.name == schema.MEASUREMENTS.name else [1, 1]
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=shape)
        request.raw_input_contents.append(bytes({"FP64": 48, "INT32": 4, "INT64": 8}[tensor.dtype]))
    with grpc.insecure_channel(edge.feeds) as channel:
        server = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="input byte size mismatch for input 'measurements'"):
            server.ModelInfer(request)
        assert server.ModelReady(service_pb2.ModelReadyRequest(name=schema.ENSEMBLE.name)).ready


def test_changes_of_the_server_are_not_routed_over_grpc(edge: Edge) -> None:
    with triton.InferenceServerClient(edge.feeds) as client:
        for change in (
            lambda: client.unload_model("reentry"),
            lambda: client.get_trace_settings("reentry"),
            lambda: client.register_system_shared_memory("a", "/a", 1),
            lambda: client.get_log_settings(),
        ):
            with pytest.raises(triton.InferenceServerException, match="404"):
                change()
