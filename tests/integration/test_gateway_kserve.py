"""The KServe protocol through a real gateway and a real Triton: tritonclient, perf_analyzer, hostile requests."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient as AioClient
from tritonclient.utils import InferenceServerException

from client.connection import Connection, Endpoint
from gateway.kserve.models import ServedModel, ServedModels
from perf.analyzer.inputs import INPUTS, write_inputs
from perf.analyzer.installation import check_analyzer, find_analyzer
from reentry.schema import (
    ENSEMBLE,
    MEASUREMENTS,
    REENTRY_FAST,
    TRACK_ID_TENSOR,
    TRACK_LENGTH,
    UNLIKE_TRAINING,
    Model,
)
from reentry.serving import EmbeddedServer
from tests.conftest import on_free_ports
from tests.gateway_servers import GatewayProcess, free_port, running_gateway, wait_until
from tests.unit.gateway.kserve.bodies import arrays, bombs, infer_inputs, request_body

MODELS: Final = (ENSEMBLE, REENTRY_FAST)
GROWTH: Final = 96 * 2**20
"""Bytes by which the memory of the gateway may grow while it refuses bodies of up to 12 MB."""


@pytest.fixture(scope="module")
def triton(two_paths: Path) -> Iterator[EmbeddedServer]:
    """A Triton with both models."""
    with EmbeddedServer(on_free_ports(two_paths)) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(triton: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of it."""
    with running_gateway(tmp_path_factory.mktemp("kserve"), triton_url=f"http://{triton.http_url}") as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[InferenceServerClient]:
    """A tritonclient; each call needs `headers`."""
    with InferenceServerClient(gateway.url.removeprefix("http://")) as connected:
        yield connected


def key_of(gateway: GatewayProcess) -> dict[str, str]:
    """Headers with the key."""
    return {"Authorization": f"Bearer {gateway.key}"}


def ask(
    gateway: GatewayProcess, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request without a library of KServe."""
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, key_of(gateway) if headers is None else headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def direct(triton: EmbeddedServer, model: Model, values: dict[str, Any]) -> dict[str, Any]:
    """Outputs of Triton itself, over gRPC."""

    async def infer() -> dict[str, Any]:
        async with Connection(Endpoint.parse(f"grpc://{triton.grpc_url}"), timeout=60.0) as connection:
            return await connection.infer(model, values)

    return asyncio.run(infer())


def require_equal(model: Model, given: Any, expected: dict[str, Any], *, binary: bool = True) -> None:
    """The outputs of an InferResult have the bits of the expected ones."""
    for tensor in model.outputs:
        values = given.as_numpy(tensor.name)
        if tensor.name == UNLIKE_TRAINING.name and not binary:
            values = np.array([[text.encode()] for text in values[:, 0]], dtype=np.object_)
        assert values.dtype == expected[tensor.name].dtype
        np.testing.assert_array_equal(values, expected[tensor.name], err_msg=tensor.name)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("tracks", "steps"), [(1, 50), (5, 80)])
def test_tritonclient_gets_the_outputs_of_triton_to_the_last_bit(
    *,
    gateway: GatewayProcess,
    triton: EmbeddedServer,
    client: InferenceServerClient,
    model: Model,
    binary: bool,
    tracks: int,
    steps: int,
) -> None:
    values = arrays(tracks, steps)
    wanted = [InferRequestedOutput(tensor.name, binary_data=binary) for tensor in model.outputs]
    result = client.infer(
        model.name, infer_inputs(values, binary=binary), outputs=wanted, request_id="r-1", headers=key_of(gateway)
    )
    expected = direct(triton, model, values)
    assert result.get_response()["id"] == "r-1"
    assert expected["model_version"][0, 0] == 1
    require_equal(model, result, expected, binary=binary)


def test_asyncio_client_gets_the_outputs_of_many_requests_at_once(
    gateway: GatewayProcess, triton: EmbeddedServer
) -> None:
    requests = [arrays(tracks, 40) for tracks in (1, 2, 3, 4)]

    async def infer_all() -> list[Any]:
        async with AioClient(gateway.url.removeprefix("http://")) as client:
            calls = [client.infer("reentry", infer_inputs(each), headers=key_of(gateway)) for each in requests]
            return await asyncio.gather(*calls)

    for values, result in zip(requests, asyncio.run(infer_all()), strict=True):
        require_equal(ENSEMBLE, result, direct(triton, ENSEMBLE, values))


def test_a_version_in_the_path_must_be_the_served_one(gateway: GatewayProcess, client: InferenceServerClient) -> None:
    inputs, headers = infer_inputs(arrays()), key_of(gateway)
    assert client.infer("reentry", inputs, model_version="1", headers=headers).get_response()["model_version"] == "1"
    with pytest.raises(InferenceServerException, match="unknown version") as error:
        client.infer("reentry", inputs, model_version="2", headers=headers)
    assert error.value.status() == "404"


def test_metadata_health_and_readiness_are_those_of_triton(
    gateway: GatewayProcess, triton: EmbeddedServer, client: InferenceServerClient
) -> None:
    headers = key_of(gateway)
    assert client.is_server_live(headers)
    assert client.is_server_ready(headers)
    assert client.get_server_metadata(headers)["name"] == "reentry gateway"
    with InferenceServerClient(triton.http_url) as own:
        for model in MODELS:
            assert client.is_model_ready(model.name, headers=headers)
            assert client.is_model_ready(model.name, "1", headers=headers)
            assert not client.is_model_ready(model.name, "2", headers=headers)
            expected = own.get_model_metadata(model.name)
            assert client.get_model_metadata(model.name, headers=headers) == expected
            assert client.get_model_metadata(model.name, "1", headers=headers) == expected
            config = client.get_model_config(model.name, headers=headers)
            full = own.get_model_config(model.name)
            assert client.get_model_config(model.name, "1", headers=headers) == config
            assert config["max_batch_size"] == full["max_batch_size"] == 64
            for given, theirs in zip(config["input"] + config["output"], full["input"] + full["output"], strict=True):
                assert given == {name: theirs[name] for name in ("name", "data_type", "dims")}
            assert "ensemble_scheduling" not in config


@pytest.mark.parametrize(
    "name", ["reentry_lstm", "track_decision", "reentry_track", "nothing", "..", "%2e%2e", "a%2Fb"]
)
def test_models_inside_triton_are_unknown(gateway: GatewayProcess, name: str) -> None:
    for method, end in (("GET", ""), ("GET", "/ready"), ("GET", "/config"), ("GET", "/versions/1"), ("POST", "/infer")):
        status, headers, body = ask(gateway, method, f"/v2/models/{name}{end}")
        assert (status, headers["content-type"]) == (404, "application/problem+json")
        assert json.loads(body)["code"] == "not-found"


@pytest.mark.parametrize(
    "path", ["/v2/repository/index", "/v2/models/reentry/stats", "/v2/trace/setting", "/v2/logging"]
)
def test_the_other_routes_of_triton_do_not_exist(gateway: GatewayProcess, path: str) -> None:
    for method in ("GET", "POST"):
        assert ask(gateway, method, path)[0] == 404


def test_a_model_of_live_tracks_is_refused_with_the_way_to_reach_it(
    gateway: GatewayProcess, client: InferenceServerClient
) -> None:
    with pytest.raises(InferenceServerException, match="gRPC inside the cluster"):
        client.get_model_metadata("reentry_stream", headers=key_of(gateway))


def test_requests_for_a_model_that_is_not_served_leave_the_others_alone(gateway: GatewayProcess) -> None:
    body, length = request_body(arrays())
    headers = key_of(gateway) | {"Inference-Header-Content-Length": str(length)}
    for _ in range(6):  # twice as many as open the breaker
        status, _, answer = ask(gateway, "POST", "/v2/models/reentry_candidate/infer", body, headers)
        assert (status, json.loads(answer)["code"]) == (503, "model-unavailable")
    assert ask(gateway, "GET", "/v2/models/reentry_candidate/ready")[0] == 503
    assert ask(gateway, "POST", "/v2/models/reentry/infer", body, headers)[0] == 200
    assert metric(gateway, "reentry_gateway_breaker_state") == 0


def test_tritonclient_shows_the_problem_of_a_refused_request(
    gateway: GatewayProcess, client: InferenceServerClient
) -> None:
    values = arrays()
    values[MEASUREMENTS.name][0, 7, 3] = np.nan
    with pytest.raises(InferenceServerException, match="row 7, column altitude: not finite") as error:
        client.infer("reentry", infer_inputs(values), headers=key_of(gateway))
    assert error.value.status() == "400"
    with pytest.raises(InferenceServerException, match="sequence_id"):
        client.infer("reentry", infer_inputs(arrays()), sequence_id=5, headers=key_of(gateway))
    with pytest.raises(InferenceServerException, match="B from 1 to 64"):
        client.infer("reentry", infer_inputs(arrays(65, 10)), headers=key_of(gateway))
    for algorithm in ("gzip", "deflate"):
        with pytest.raises(InferenceServerException, match="the body is compressed") as error:
            client.infer(
                "reentry", infer_inputs(arrays()), request_compression_algorithm=algorithm, headers=key_of(gateway)
            )
        assert error.value.status() == "415"


def test_every_route_needs_a_key(gateway: GatewayProcess, client: InferenceServerClient) -> None:
    model = "/v2/models/reentry"
    paths = ("/v2", "/v2/health/live", "/v2/health/ready", model, f"{model}/ready", f"{model}/config")
    for path in (*paths, *(f"{model}/versions/1{end}" for end in ("", "/ready", "/config"))):
        assert ask(gateway, "GET", path, headers={})[0] == 401
    for path in (f"{model}/infer", f"{model}/versions/1/infer"):
        status, _, body = ask(gateway, "POST", path, b"[" * 10_000, {})
        assert (status, json.loads(body)["code"]) == (401, "unauthorized")
    with pytest.raises(InferenceServerException, match="no key was sent"):
        client.infer("reentry", infer_inputs(arrays()))


def test_a_body_over_the_limit_is_refused_before_it_is_read(gateway: GatewayProcess) -> None:
    head = f"POST /v2/models/reentry/infer HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.key}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {2**26 + 1}\r\n\r\n".encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
    before = peak_of(gateway)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b"%x\r\n%b\r\n" % (2**20, b" " * 2**20)
        for _ in range(64):
            connection.sendall(part)
        connection.sendall(part)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")
    assert peak_of(gateway) - before < 2 * 2**26


def peak_of(gateway: GatewayProcess) -> int:
    """Largest resident memory of the gateway so far, in bytes."""
    assert gateway.process is not None
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def test_bombs_of_every_media_type_are_refused_with_bounded_memory(
    gateway: GatewayProcess, client: InferenceServerClient
) -> None:
    types = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded", "text/csv", None)
    before = peak_of(gateway)
    for number, (name, body, length) in enumerate(bombs()):
        headers = key_of(gateway)
        if (media := types[number % len(types)]) is not None:
            headers["Content-Type"] = media
        if length is not None:
            headers["Inference-Header-Content-Length"] = length
        status, given, answer = ask(gateway, "POST", "/v2/models/reentry/infer", body, headers)
        assert (status, given["content-type"]) == (400, "application/problem+json"), name
        assert json.loads(answer)["error"], name
    assert peak_of(gateway) - before < GROWTH
    assert client.is_server_ready(key_of(gateway))
    assert client.infer("reentry", infer_inputs(arrays()), headers=key_of(gateway)).as_numpy("onset_step").shape == (
        1,
        1,
    )


def test_the_media_type_of_a_request_does_not_matter(gateway: GatewayProcess) -> None:
    body, length = request_body(arrays())
    for media in ("application/json", "application/octet-stream", "text/csv", "multipart/form-data; boundary=x"):
        headers = key_of(gateway) | {"Content-Type": media, "Inference-Header-Content-Length": str(length)}
        assert ask(gateway, "POST", "/v2/models/reentry/infer", body, headers)[0] == 200


def test_each_answered_track_is_a_row_of_the_log_with_the_outputs_of_triton(
    gateway: GatewayProcess, triton: EmbeddedServer, client: InferenceServerClient
) -> None:
    values = arrays(3, 60)
    values[TRACK_ID_TENSOR.name][:] = [[-5], [2**62], [17]]
    values[TRACK_LENGTH.name][1] = 40  # the rest is padding
    client.infer("reentry", infer_inputs(values), headers=key_of(gateway) | {"X-Request-Id": "logged-1"})
    expected = direct(triton, ENSEMBLE, values)
    rows: list[dict[str, Any]] = []

    def are_stored() -> bool:
        rows[:] = logged_rows(gateway, "logged-1")
        return len(rows) == 3

    wait_until(are_stored, what="three rows in the inference log")
    by_track = {row["track_id"]: row for row in rows}
    for track, (track_id, length) in enumerate(((-5, 60), (2**62, 40), (17, 60))):
        row, measurements = by_track[track_id], values[MEASUREMENTS.name][track, :length]
        assert (row["steps"], row["model"], row["model_version"]) == (length, "reentry", 1)
        assert (row["first_timestamp"], row["last_timestamp"]) == (measurements[0, 0], measurements[-1, 0])
        assert row["peak_altitude"] == measurements[:, 3].max()
        assert row["largest_probability"] == expected["reentry_probability"][track, :length].max()
        onset, refined = (float(expected[name][track, 0]) for name in ("onset_timestamp", "refined_onset_timestamp"))
        assert row["onset_timestamp"] == (None if onset == -1.0 else onset)
        assert row["refined_onset_timestamp"] == (None if refined == -1.0 else refined)


def logged_rows(gateway: GatewayProcess, request_id: str) -> list[dict[str, Any]]:
    """Rows of the inference log of one request."""
    database = Path(gateway.environment["REENTRY_GATEWAY_DATA"]) / "gateway.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT * FROM inference_log WHERE request_id = ?", (request_id,))
        return [dict(row) for row in found]


def test_a_call_whose_client_is_gone_is_cancelled(gateway: GatewayProcess, triton: EmbeddedServer) -> None:
    def cancelled() -> float:
        return metric(gateway, 'reentry_gateway_triton_calls_total{result="cancelled"}')

    before = cancelled()
    body, length = request_body(arrays())
    headers = key_of(gateway) | {"Inference-Header-Content-Length": str(length)}
    os.kill(triton.process_id, signal.SIGSTOP)
    try:
        for patience in (0.1, 0.5, 2.0, 8.0):  # a client that leaves before its body is read causes no call
            connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=60)
            connection.request("POST", "/v2/models/reentry/infer", body, headers)
            wait_until(lambda: metric(gateway, "reentry_gateway_requests_in_flight") == 1, what="the request in flight")
            time.sleep(patience)
            connection.close()
            wait_until(
                lambda: metric(gateway, "reentry_gateway_requests_in_flight") == 0, what="the end of the request"
            )
            if cancelled() > before:
                break
        assert cancelled() == before + 1
    finally:
        os.kill(triton.process_id, signal.SIGCONT)
    assert ask(gateway, "POST", "/v2/models/reentry/infer", body, headers)[0] == 200


def metric(gateway: GatewayProcess, name: str) -> float:
    """Value of a metric, 0 if it is not there yet."""
    with urlopen(gateway.metrics_url, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def test_models_are_described_alike_over_http_and_grpc(triton: EmbeddedServer) -> None:
    async def described(url: str) -> tuple[ServedModel, list[str], int]:
        async with ServedModels(url).open() as models, Connection(Endpoint.parse(url), timeout=60.0) as connection:
            return (
                await models.get(ENSEMBLE),
                await connection.versions(ENSEMBLE),
                await connection.max_batch(ENSEMBLE),
            )

    over_http, over_grpc = (
        asyncio.run(described(url)) for url in (f"http://{triton.http_url}", f"grpc://{triton.grpc_url}")
    )
    assert over_http == over_grpc
    assert over_http[0].ready


def test_a_gateway_without_triton_is_live_and_not_ready_and_charges_steps_first(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("[tiers.standard]\n[tiers.premium]\nsteps_per_minute = 1200\n")
    away = f"grpc://127.0.0.1:{free_port()}"
    with running_gateway(tmp_path, triton_url=away, config=config) as gateway:
        assert ask(gateway, "GET", "/v2/health/live")[0] == 200
        body, length = request_body(arrays(1, 600))
        headers = key_of(gateway) | {"Inference-Header-Content-Length": str(length)}
        for status, given, answer in (
            ask(gateway, "GET", "/v2/health/ready"),
            ask(gateway, "GET", "/v2/models/reentry/ready"),
            ask(gateway, "POST", "/v2/models/reentry/infer", body, headers),
            ask(gateway, "POST", "/v2/models/reentry/infer", body, headers),
        ):
            assert status == 503
            assert json.loads(answer)["code"] == "model-unavailable"
            assert int(given["retry-after"]) >= 1
        status, given, answer = ask(gateway, "POST", "/v2/models/reentry/infer", body, headers)
        assert (status, json.loads(answer)["expected"]) == (429, "at most 1200 steps per minute")
        assert '"steps";r=' in given["ratelimit"]


CHECK = check_analyzer()


@pytest.mark.skipif("lacks libb64" in CHECK.found, reason=f"{CHECK.found}; {CHECK.fix}")
@pytest.mark.parametrize("batch", [1, 4])
def test_perf_analyzer_measures_the_gateway_without_an_error(
    gateway: GatewayProcess, tmp_path: Path, batch: int
) -> None:
    analyzer = find_analyzer()
    write_inputs(tmp_path / "inputs.json", inputs=INPUTS, batch=batch, length="50", seed=0)
    done = subprocess.run(
        [
            *(analyzer.binary, "-m", "reentry", "-u", gateway.url.removeprefix("http://"), "-i", "http"),
            *("-H", f"Authorization:Bearer {gateway.key}", "--input-data", tmp_path / "inputs.json"),
            *("-b", str(batch), "--concurrency-range", "3", "--request-count", "100"),
        ],
        env=analyzer.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
    assert "Request count: 100" in done.stdout
