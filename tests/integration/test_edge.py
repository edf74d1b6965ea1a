"""nginx as the gateway before a real Triton, with the routes, limits and snippet of the manifests.

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
from tests.contract.manifests import one, program, routes
from tests.integration.test_serving import make_tracks, request_inputs

FOLDER = "overlays/production"
ANNOTATION = "nginx.ingress.kubernetes.io/"


@dataclass(frozen=True)
class Edge:
    """Addresses of the gateway as host:port, one for each Ingress."""

    http: str
    grpc: str
    feeds: str

    def status_of(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        """Send a request and return the status of the response."""
        connection = http.client.HTTPConnection(self.http, timeout=10)
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def locations(ingress: str, server: EmbeddedServer) -> str:
    """Return the locations that ingress-nginx makes of one Ingress."""
    snippet = one("edge", "ConfigMap")["data"]["location-snippet"]
    blocks = ["location / { return 404; }"]
    for found, _, path, _ in routes(FOLDER):
        if found["metadata"]["name"] != ingress:
            continue
        annotations = found["metadata"]["annotations"]
        grpc = annotations.get(f"{ANNOTATION}backend-protocol") == "GRPC"
        upstream = f"grpc_pass grpc://{server.grpc_url};" if grpc else f"proxy_pass http://{server.http_url};"
        limit = f"client_max_body_size {annotations[f'{ANNOTATION}proxy-body-size']};"
        blocks.append(f'location = {path} {{ set $namespace "reentry"; {limit} {upstream}\n{snippet} }}')
    return "\n".join(blocks)


@pytest.fixture(scope="module")
def edge(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    nginx = program("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    names = ("http", "grpc", "feeds")
    ports = dict(zip(names, free_ports(3), strict=True))
    servers = "\n".join(
        f"server {{ listen 127.0.0.1:{port}{' http2' if name != 'http' else ''};\n"
        f"{locations(f'reentry-{name}', server)} }}"
        for name, port in ports.items()
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
        deadline = time.monotonic() + 10
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


def test_tracks_are_scored_through_the_gateway(edge: Edge) -> None:
    for address in (edge.grpc, edge.feeds):
        with triton.InferenceServerClient(address) as client:
            answer = client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(2, 30)))
        assert answer.as_numpy("reentry_probability").shape == (2, 30)


def test_the_largest_request_of_our_client_passes_the_gateway(edge: Edge) -> None:
    with triton.InferenceServerClient(edge.grpc) as client:
        answer = client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(16, 4096)))
    assert answer.as_numpy("reentry_phase").shape == (16, 4096)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_refused_before_the_server_unpacks_it(edge: Edge, algorithm: str) -> None:
    inputs = request_inputs(make_tracks(2, 30))
    for address in (edge.grpc, edge.feeds):
        with (
            triton.InferenceServerClient(address) as client,
            pytest.raises(triton.InferenceServerException, match="415"),
        ):
            client.infer(schema.ENSEMBLE.name, inputs, compression_algorithm=algorithm)


def test_a_message_beyond_the_limit_is_refused_and_the_server_stays_ready(edge: Edge) -> None:
    name = schema.MEASUREMENTS.name
    inputs = request_inputs(make_tracks(1, 30))
    huge = triton.InferInput(name, (1, 400_000, 6), "FP64")
    huge.set_data_from_numpy(np.zeros((1, 400_000, 6)))
    inputs = [huge if each.name() == name else each for each in inputs]
    with triton.InferenceServerClient(edge.grpc) as client:
        with pytest.raises(triton.InferenceServerException, match="413"):
            client.infer(schema.ENSEMBLE.name, inputs)
        assert client.is_model_ready(schema.ENSEMBLE.name)


def test_a_message_with_a_shape_larger_than_its_data_is_refused_by_the_server(edge: Edge) -> None:
    request = service_pb2.ModelInferRequest(model_name=schema.ENSEMBLE.name)
    for tensor in schema.ENSEMBLE.inputs:
        shape = [1, 100_000_000, 6] if tensor.name == schema.MEASUREMENTS.name else [1, 1]
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=shape)
        request.raw_input_contents.append(bytes({"FP64": 48, "INT32": 4, "INT64": 8}[tensor.dtype]))
    with grpc.insecure_channel(edge.grpc) as channel:
        server = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="input byte size mismatch for input 'measurements'"):
            server.ModelInfer(request)
        assert server.ModelReady(service_pb2.ModelReadyRequest(name=schema.ENSEMBLE.name)).ready


@pytest.mark.parametrize(
    "path", ["health/live", "health/ready", "models/reentry", "models/reentry/config", "models/reentry/ready"]
)
def test_health_and_metadata_are_available_over_http(edge: Edge, path: str) -> None:
    assert edge.status_of("GET", f"/v2/{path}") == 200
    assert edge.status_of("GET", f"/v2/{path}", **{"Content-Encoding": "gzip"}) == 415
    assert edge.status_of("GET", f"/v2/{path}", bytes(1025)) == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/models/reentry/infer"),
        ("POST", "/v2/models/reentry/ready/../infer"),
        ("POST", "/v2/models/reentry/infer/../ready"),
        ("POST", "/v2/models/reentry%2Finfer"),
        ("POST", "/v2/models/reentry/versions/1/infer"),
        ("POST", "/v2/models/reentry/trace/setting"),
        ("GET", "/v2/models/reentry/trace/setting"),
        ("GET", "/v2/models/track_features/ready"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/reentry/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/logging"),
        ("GET", "/metrics"),
    ],
)
def test_other_paths_are_not_routed_over_http(edge: Edge, method: str, path: str) -> None:
    assert edge.status_of(method, path, b"{}" if method == "POST" else b"") in (400, 404)


def test_changes_of_the_server_are_not_routed_over_grpc(edge: Edge) -> None:
    with triton.InferenceServerClient(edge.grpc) as client:
        for change in (
            lambda: client.unload_model("reentry"),
            lambda: client.get_trace_settings("reentry"),
            lambda: client.register_system_shared_memory("a", "/a", 1),
            lambda: client.get_log_settings(),
        ):
            with pytest.raises(triton.InferenceServerException, match="404"):
                change()
