"""The embedded server as a container runs it: on an open address, its logs on standard error."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from reentry.serving import EmbeddedServer, ServerConfig
from tests.integration.test_serving import make_tracks, request_inputs

REENTRY = Path(sys.executable).with_name("reentry")


@pytest.fixture(scope="module")
def exposed(model_repository: Path) -> Iterator[EmbeddedServer]:
    config = ServerConfig(
        model_repository=model_repository, address="0.0.0.0", http_port=0, grpc_port=0, metrics_port=0
    )
    with EmbeddedServer(config) as server:
        yield server


@pytest.mark.parametrize(
    "path",
    ["repository/index", "repository/models/reentry/unload", "systemsharedmemory/region/a/register", "logging"],
)
def test_on_an_open_address_nobody_but_the_owner_changes_the_server(exposed: EmbeddedServer, path: str) -> None:
    request = urllib.request.Request(f"http://{exposed.http_url}/v2/{path}", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    assert refusal.value.code == 403
    assert "restricted" in refusal.value.read().decode()
    refusal.value.close()


def test_nor_over_grpc(exposed: EmbeddedServer) -> None:
    with triton.InferenceServerClient(exposed.grpc_url) as client:
        for change in (
            lambda: client.unload_model("reentry"),
            lambda: client.register_system_shared_memory("a", "/a", 1),
            lambda: client.update_log_settings({"log_info": False}),
        ):
            with pytest.raises(triton.InferenceServerException, match="restricted"):
                change()


def test_on_an_open_address_tracks_are_scored_and_the_end_is_clean(exposed: EmbeddedServer) -> None:
    with triton.InferenceServerClient(exposed.grpc_url) as client:
        assert client.get_model_config("reentry").config.name == "reentry"
        answer = client.infer("reentry", request_inputs(make_tracks(2, 30)))
    assert answer.as_numpy("reentry_probability").shape == (2, 30)


def test_on_loopback_models_are_loaded_by_whoever_is_there(server: EmbeddedServer) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        assert {model.name for model in client.get_model_repository_index().models} == set(server.models)


def test_both_logs_go_to_standard_error_when_asked_to(model_repository: Path, tmp_path: Path) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [REENTRY, "serve", "--repository", model_repository, "--log-dir", "-", *ports],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={"PYTHONUNBUFFERED": "1", "REENTRY_INSTANCES": "3"},
        )
    assert process.stdout is not None
    try:
        printed = {}
        for line in process.stdout:
            if line.startswith("ready"):
                break
            name, _, value = line.partition(" ")
            printed[name] = value.strip()
        with triton.InferenceServerClient(printed["gRPC"].removeprefix("grpc://")) as client:
            client.infer("reentry", request_inputs(make_tracks(2, 20)))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (process.returncode, out) == (0, "stopped\n")
    assert printed["logs"] == "standard error"
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert [json.loads(line)["rows"] for line in lines if line.startswith("{")] == [20, 20]
    assert sum("Initialize: reentry_lstm_0_" in line for line in lines) >= 3  # the environment's instances
    assert [path.name for path in tmp_path.iterdir()] == ["stderr"]
