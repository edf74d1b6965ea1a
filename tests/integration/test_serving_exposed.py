"""Access control of the embedded server, and the server with its logs on standard error, as in a container."""

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

from reentry.serving import EmbeddedServer
from reentry.serving.http import CONTROL_HEADER
from registry.live_server import LiveServer
from tests.conftest import on_free_ports
from tests.integration.test_serving import make_tracks, request_inputs
from tests.processes import command_lines

REENTRY = Path(sys.executable).with_name("reentry")


@pytest.fixture(scope="module")
def exposed(model_repository: Path) -> Iterator[EmbeddedServer]:
    config = on_free_ports(model_repository, address="0.0.0.0")
    with EmbeddedServer(config) as server:
        yield server


@pytest.fixture(params=["loopback", "open address"])
def either(request: pytest.FixtureRequest, server: EmbeddedServer) -> EmbeddedServer:
    return server if request.param == "loopback" else request.getfixturevalue("exposed")


@pytest.mark.parametrize(
    "path",
    [
        "repository/index",
        "repository/models/reentry/load",
        "repository/models/reentry/unload",
        "repository/models/any/load",
        "systemsharedmemory/region/a/register",
        "systemsharedmemory/unregister",
        "cudasharedmemory/region/a/register",
        "trace/setting",
        "models/reentry/trace/setting",
        "logging",
    ],
)
def test_a_web_page_or_another_user_cannot_change_the_server(either: EmbeddedServer, path: str) -> None:
    # A browser sends this for a page without a preflight request: plain text, the page's origin, and its host name.
    page = {"Content-Type": "text/plain", "Origin": "http://evil.example", "Host": "evil.example"}
    for headers in (
        page,
        page | {CONTROL_HEADER: ""},
        page | {CONTROL_HEADER: "guess"},
        page | {CONTROL_HEADER: "hidden"},
    ):
        request = urllib.request.Request(f"http://{either.http_url}/v2/{path}", b"{}", headers, method="POST")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=60)
        assert refusal.value.code == 403
        assert "restricted" in refusal.value.read().decode()
        refusal.value.close()


def test_the_control_key_is_in_the_arguments_of_no_process(either: EmbeddedServer) -> None:
    arguments = list(command_lines().values())
    assert any(f"--http-port={either.http_url.rpartition(':')[2]}\0" in text for text in arguments)
    assert not [text for text in arguments if either.control_key in text]
    assert either.control_key not in either.server_log.read_text()


def test_commands_of_the_same_user_find_the_control_key_by_the_address(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REENTRY_CONTROL_KEY", raising=False)
    port = server.http_url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        assert LiveServer(f"http://{host}:{port}").versions() == [1]


def test_changes_over_grpc_are_refused(either: EmbeddedServer) -> None:
    with triton.InferenceServerClient(either.grpc_url) as client:
        for change in (
            lambda: client.get_model_repository_index(),
            lambda: client.load_model("reentry"),
            lambda: client.update_trace_settings("reentry", {"trace_file": ["/tmp/file"]}),
            lambda: client.register_cuda_shared_memory("a", b"", 0, 1),
            lambda: client.unload_model("reentry"),
            lambda: client.register_system_shared_memory("a", "/a", 1),
            lambda: client.update_log_settings({"log_info": False}),
        ):
            with pytest.raises(triton.InferenceServerException, match="restricted"):
                change()


def test_a_server_on_an_open_address_scores_tracks(exposed: EmbeddedServer) -> None:
    with triton.InferenceServerClient(exposed.grpc_url) as client:
        assert client.get_model_config("reentry").config.name == "reentry"
        answer = client.infer("reentry", request_inputs(make_tracks(2, 30)))
    assert answer.as_numpy("reentry_probability").shape == (2, 30)


def test_both_logs_go_to_standard_error_if_the_log_directory_is_a_dash(model_repository: Path, tmp_path: Path) -> None:
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
        out, _ = process.communicate(timeout=240)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert (process.returncode, out) == (0, "stopped\n")
    assert printed["logs"] == "standard error"
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert [json.loads(line)["rows"] for line in lines if line.startswith("{")] == [20, 20]
    assert sum("Initialize: reentry_lstm_0_" in line for line in lines) >= 3  # the instances that the environment sets
    assert [path.name for path in tmp_path.iterdir()] == ["stderr"]
