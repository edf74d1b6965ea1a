"""Start, crash and shutdown of the real server, and the messages of `reentry serve`."""

from __future__ import annotations

import json
import os
import queue
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from export.config import ExportConfig
from export.pipeline import export_checkpoint
from reentry import schema
from reentry.decision import DecisionConfig
from reentry.errors import ServerError
from reentry.features.track import track_features
from reentry.runtime.signals import ENDING
from reentry.schema import DERIVED_MODELS
from reentry.serving import EmbeddedServer
from reentry.serving.doctor import examine
from reentry.serving.http import load_model
from reentry.serving.run_directory import RunDirectory, find_key
from reentry.serving.stubs import StubWatch
from registry.live_server import LiveServer
from tests.conftest import copy_repository, grpc_key, make_repository, on_free_ports, write_reference
from tests.gateway_servers import wait_until
from tests.integration.test_serving import SERVED_WITHIN, make_tracks, request_inputs
from tests.live_models import write_live_models
from tests.processes import children_of, command_line
from tests.toy_model import write_toy_model
from tests.versions import pin
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import ModelConfig, TrainConfig
from training.models.networks import ReentryLSTM

REENTRY = Path(sys.executable).with_name("reentry")


def start_error(repository: Path, **settings: object) -> ServerError:
    """The error of a server that does not start."""
    with pytest.raises(ServerError) as failure, EmbeddedServer(on_free_ports(repository, **settings)):
        pass
    return failure.value


@contextmanager
def serving(repository: Path, folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `reentry serve` in a process and yield it with its output once it is ready."""
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(
        [REENTRY, "serve", "--repository", repository, "--log-dir", folder, *ports, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process, until_ready(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def until_ready(process: subprocess.Popen[str]) -> list[str]:
    """Return the output of the command up to the line that says it is ready."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line.strip())
        if line.startswith("ready"):
            break
    return printed


def server_process(process: subprocess.Popen[str]) -> int:
    """Return the process id of the tritonserver that `reentry serve` runs."""
    (server,) = children_of(process.pid)
    return server


def test_two_servers_run_side_by_side(server: EmbeddedServer, tmp_path: Path) -> None:
    repository = copy_repository(tmp_path)
    write_toy_model(repository / "reentry_lstm/2/model.onnx", version=2, seed=1)
    pin(repository, 2)
    tracks = make_tracks(1, 30)
    with EmbeddedServer(on_free_ports(repository)) as other:
        versions = []
        for each in (server, other):
            with triton.InferenceServerClient(each.grpc_url) as client:
                versions.append(client.infer("reentry", request_inputs(tracks)).as_numpy("model_version").item())
    assert versions == [1, 2]
    with triton.InferenceServerClient(server.grpc_url) as client:  # the shutdown of the other does not affect this one
        assert client.infer("reentry", request_inputs(tracks)).as_numpy("onset_step").shape == (1, 1)


def test_a_shutdown_leaves_no_files_and_no_processes_behind(tmp_path: Path) -> None:
    with EmbeddedServer(on_free_ports(make_repository(tmp_path), drain_timeout=120.0)) as server:
        folder, prefix = server.log_directory, server.shared_memory_prefix
        process = server.process_id
        assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert not folder.exists()
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process, 0)
    with pytest.raises(ServerError, match="not running"):
        server.wait()


def test_an_open_sequence_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    repository = write_live_models(tmp_path)
    long = 86_400.0  # s; with the sequence, Triton would wait for all of it
    server = EmbeddedServer(on_free_ports(repository, drain_timeout=long)).__enter__()
    row = triton.InferInput(schema.MEASUREMENT.name, [1, 6], "FP64").set_data_from_numpy(make_tracks(1, 1)[0])
    client = triton.InferenceServerClient(server.grpc_url)
    client.infer(schema.REENTRY_STREAM.name, [row], sequence_id="open", sequence_start=True)
    client.close()
    stopping = threading.Thread(target=server.stop, daemon=True)
    process = server.process_id
    stopping.start()
    stopping.join(timeout=300.0)
    if stopping.is_alive():
        os.killpg(process, signal.SIGKILL)
        stopping.join()
        pytest.fail("the server waits for the sequence")


def test_instances_and_threads_are_fitted_at_load_and_the_files_stay_unchanged(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    before = {path: path.read_bytes() for path in repository.glob("*/config.pbtxt")}
    with EmbeddedServer(on_free_ports(repository, instances=4, threads=2)) as server:
        served = {}
        for name in ("reentry_lstm", "track_features", "track_decision"):
            with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{name}/config") as answer:
                served[name] = json.load(answer)
    counts = {name: config["instance_group"][0]["count"] for name, config in served.items()}
    assert counts == {"reentry_lstm": 5, "track_features": 3, "track_decision": 2}  # bounded queues get a spare one
    assert served["reentry_lstm"]["parameters"]["intra_op_thread_count"]["string_value"] == "2"
    assert {path: path.read_bytes() for path in repository.glob("*/config.pbtxt")} == before


def test_each_model_is_loaded_once_and_the_ensemble_last(tmp_path: Path) -> None:
    with EmbeddedServer(on_free_ports(make_repository(tmp_path), instances=4)) as server:
        log = server.server_log.read_text()
    loaded = re.findall(r"successfully loaded '(\w+)'", log)
    assert sorted(loaded) == server.models
    assert loaded[-1] == "reentry"


def test_a_server_whose_files_fit_the_machine_listens_after_its_models_are_ready(tmp_path: Path) -> None:
    with EmbeddedServer(on_free_ports(make_repository(tmp_path), instances=2, threads=1)) as server:
        log = server.server_log.read_text()
    loaded = [log.index(f"successfully loaded '{name}'") for name in server.models]
    assert max(loaded) < log.index("Started GRPCInferenceService") < log.index("Started HTTPService")
    assert log.count("successfully loaded") == len(loaded)


def test_the_files_are_used_unchanged_without_model_control(tmp_path: Path) -> None:
    with (
        EmbeddedServer(on_free_ports(make_repository(tmp_path), model_control_mode="none")) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        assert client.infer("reentry", request_inputs(make_tracks(1, 5))).as_numpy("reentry_phase").shape == (1, 5)
        live_server = LiveServer(f"http://{server.http_url}")
        with pytest.raises(ServerError, match="omit --url"):
            live_server.load(live_server.config())


def test_a_port_in_use_is_named_with_the_option_to_change_it(model_repository: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = on_free_ports(model_repository, grpc_port=port)
        with pytest.raises(ServerError) as error, EmbeddedServer(config):
            pass
    assert error.value.problem.startswith(f"grpc port {port} cannot be used")
    assert "--grpc-port" in (error.value.fix or "")


def test_the_error_for_a_repository_without_a_version_names_the_command_that_installs_one(tmp_path: Path) -> None:
    error = start_error(copy_repository(tmp_path))
    assert error.problem == "no version of reentry_lstm is installed"
    assert error.fix == "reentry export CHECKPOINT"


def test_a_folder_that_is_not_a_repository_is_named_in_the_error(tmp_path: Path) -> None:
    error = start_error(tmp_path)
    assert (error.where, error.problem) == (str(tmp_path), "no model repository")


def test_a_broken_onnx_file_is_reported_in_one_line_with_the_reason(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    (repository / "reentry_lstm/1/model.onnx").write_bytes(b"not a graph")
    error = start_error(repository)
    assert error.problem.startswith("the server cannot load reentry_lstm: ")
    assert "model.onnx is not a valid ONNX model" in error.problem
    assert "Protobuf parsing failed" in error.problem
    assert "\n" not in str(error)


def test_a_configuration_that_differs_from_the_graph_is_refused(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = repository / "reentry_lstm/config.pbtxt"
    path.write_text(path.read_text().replace("TYPE_FP32 dims: [ -1 ]", "TYPE_FP64 dims: [ -1 ]"))
    problem = start_error(repository).problem
    assert "output reentry_probability: expected TYPE_FP64 as configured. Got: tensor(float)" in problem


def test_an_invalid_configuration_is_reported_with_file_and_line(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = repository / "track_decision/config.pbtxt"
    path.write_text('name: "track_decision"\nbackend "python"\n')
    error = start_error(repository)
    assert error.where == str(path)
    assert error.problem.startswith("invalid model configuration: 2:")


def test_a_server_that_exits_without_model_control_gives_its_reason(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    (repository / "reentry_lstm/1/model.onnx").write_bytes(b"not a graph")
    problem = start_error(repository, model_control_mode="none").problem
    assert problem.startswith("the Triton server ended with status 1: ")
    assert "failed to load all models" in problem


def test_the_error_after_a_missed_deadline_names_the_deadline(model_repository: Path) -> None:
    assert "start_timeout, 0.05 s" in start_error(model_repository, start_timeout=0.05).problem


@pytest.mark.parametrize("ending", ENDING, ids=lambda number: number.name)
def test_the_command_exits_with_status_0_after_a_shutdown_signal(
    model_repository: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    with serving(model_repository, tmp_path / "logs") as (process, printed):
        assert printed[0] == "serving  reentry, reentry_lstm, track_decision, track_features"
        (address,) = [line.split("grpc://")[1] for line in printed if "grpc://" in line]
        with triton.InferenceServerClient(address) as client:
            answer = client.infer("reentry", request_inputs(make_tracks(1, 20)))
        assert answer.as_numpy("reentry_probability").shape == (1, 20)
        process.send_signal(ending)
        out, err = process.communicate(timeout=240)
    assert (process.returncode, out.strip(), err) == (0, "stopped", "")
    lines = (tmp_path / "logs/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["rows"] for line in lines] == [20]


def test_the_command_reports_a_killed_server(model_repository: Path, tmp_path: Path) -> None:
    with serving(model_repository, tmp_path) as (process, printed):
        (http,) = [line.split("//")[1] for line in printed if line.startswith("HTTP")]
        # Neither the errors that a load logs without a GPU nor those of a refused load end the server.
        load_model(http, "reentry", None, key=find_key(http), timeout=240)
        with pytest.raises(ServerError):
            load_model(http, "reentry", "{}", key=find_key(http), timeout=240)
        os.kill(server_process(process), signal.SIGKILL)
        _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (1, "error: the Triton server was ended by SIGKILL\n")


def test_a_server_that_runs_out_of_memory_is_restarted(model_repository: Path, tmp_path: Path) -> None:
    inputs = [
        {"name": "measurements", "datatype": "FP64", "shape": [1, 100_000_000, 6], "data": [0]},  # 4.8 GB
        {"name": "track_id", "datatype": "INT64", "shape": [1, 1], "data": [0]},
        {"name": "track_length", "datatype": "INT32", "shape": [1, 1], "data": [1]},
    ]
    body = json.dumps({"inputs": inputs}).encode()
    with serving(model_repository, tmp_path / "logs", "--restart", "--memory-limit", "1024") as (process, printed):
        first = server_process(process)
        address, http = (line.split("//")[1] for line in printed if line.startswith(("gRPC", "HTTP")))
        limits = [resource.prlimit(each, resource.RLIMIT_AS)[1] for each in (first, *children_of(first))]
        assert all(1 << 30 < limit < 8 << 30 for limit in limits)
        with pytest.raises(OSError, match="closed connection"):
            urllib.request.urlopen(f"http://{http}/v2/models/reentry/infer", body, timeout=240)
        assert until_ready(process) == printed  # on the same ports
        with triton.InferenceServerClient(address) as client:
            assert client.infer("reentry", request_inputs(make_tracks(1, 20))).as_numpy("onset_step").shape == (1, 1)
        assert server_process(process) != first
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    assert (process.returncode, out.strip()) == (0, "stopped")
    (line,) = err.splitlines()
    assert line == "warning: the Triton server was ended by SIGABRT: std::bad_alloc; restarting in 1 s"


def test_the_command_reports_a_killed_process_of_a_model(model_repository: Path, tmp_path: Path) -> None:
    with serving(model_repository, tmp_path) as (process, _):
        for stub in children_of(server_process(process)):
            if "/track_features/" in command_line(stub):
                os.kill(stub, signal.SIGKILL)
        _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("error: a process of track_features was killed, and Triton does not start another; fix: ")


def test_a_reloaded_model_does_not_count_as_killed(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    with (
        EmbeddedServer(on_free_ports(repository)) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        watch = StubWatch(server.process_id)
        before = children_of(server.process_id)
        assert watch.lost_model() is None
        for name in ("reentry", "track_decision"):
            client.unload_model(name, headers=grpc_key(server))
        client.load_model("track_decision", headers=grpc_key(server))
        assert children_of(server.process_id) != before
        assert [watch.lost_model(), watch.lost_model()] == [None, None]


def test_a_killed_command_ends_its_server_and_the_next_start_removes_its_folder(
    model_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a place of their own, because each server that another test starts would remove the folder.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    running = RunDirectory()
    with serving(model_repository, tmp_path / "logs") as (process, _):
        number = server_process(process)
        handle = os.pidfd_open(number)
        arguments = command_line(number).split("\0")
        (folder,) = [Path(text.split("=")[1]).parent for text in arguments if text.startswith("--backend-directory=")]
    (ended, _, _) = select.select([handle], [], [], 240)  # `serving` kills the command
    os.close(handle)
    assert ended
    assert folder.is_dir()

    def is_removed() -> bool:
        RunDirectory().remove()
        return not folder.exists()

    wait_until(is_removed, what="the folder removed")  # its models may end a moment after the server
    assert running.path.is_dir()  # the folder of a running server stays
    running.remove()


def test_requests_in_flight_are_answered_before_the_shutdown(tmp_path: Path) -> None:
    inputs = request_inputs(make_tracks(64, 1200))
    outcomes: queue.Queue[Exception | None] = queue.Queue()

    def keep(result: object, error: Exception | None) -> None:
        outcomes.put(error)

    with EmbeddedServer(on_free_ports(make_repository(tmp_path), drain_timeout=120.0)) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        for _ in range(6):
            client.async_infer("reentry", inputs, keep)
        first = outcomes.get(timeout=240)  # the other five are in flight, in different models
    assert [first, *(outcomes.get(timeout=240) for _ in range(5))] == [None] * 6
    client.close()


def test_the_doctor_starts_the_server(model_repository: Path) -> None:
    checks = {check.name: check for check in examine(on_free_ports(model_repository))}
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["start"].found.startswith("4 models ready in ")


def test_a_refused_request_does_not_change_later_results(server: EmbeddedServer) -> None:
    tracks = make_tracks(1, 50)
    with triton.InferenceServerClient(server.grpc_url) as client:
        before = client.infer("reentry", request_inputs(tracks)).as_numpy("reentry_probability")
        with pytest.raises(triton.InferenceServerException):
            client.infer("reentry", request_inputs(np.full_like(tracks, np.nan)))
        after = client.infer("reentry", request_inputs(tracks)).as_numpy("reentry_probability")
    np.testing.assert_array_equal(after, before)


def test_an_exported_network_gives_the_results_of_pytorch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ReentryLSTM(ModelConfig(hidden=8)).eval()
    checkpoint = Checkpoint(
        model=network,
        train_config=TrainConfig(),
        decision=DecisionConfig(),
        data_fingerprint="",
        git_revision="",
        metrics={},
        validation_tracks=(),
    )
    repository = copy_repository(tmp_path)
    save_checkpoint(tmp_path / "model.ckpt", checkpoint)
    config = ExportConfig(checkpoint=tmp_path / "model.ckpt", repository=repository, batches=(1, 2), lengths=(1, 7))
    export_checkpoint(config)
    write_reference(repository / "reentry_lstm/1")
    for model in (model for derived in DERIVED_MODELS for model in derived.served_with):
        shutil.rmtree(repository / model.name)  # other tests serve them
    tracks = make_tracks(2, 300)
    with torch.no_grad():
        logits, _ = network(torch.from_numpy(track_features(tracks)))
    with (
        EmbeddedServer(on_free_ports(repository)) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        served = client.infer("reentry", request_inputs(tracks)).as_numpy("reentry_probability")
    np.testing.assert_allclose(served, torch.sigmoid(logits).numpy(), rtol=0, atol=SERVED_WITHIN)
