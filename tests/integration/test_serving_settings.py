"""Settings of the network's configuration on the real server: supported, refused, and compared with the file."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from reentry.errors import ServerError
from reentry.schema import FEATURES
from reentry.serving import EmbeddedServer
from reentry.serving.http import load_model
from registry.config_pbtxt import differences, read
from tests.conftest import make_repository, on_free_ports
from tests.processes import children_of, command_line

MODEL = "reentry_lstm"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def own_server(repository: Path) -> Iterator[EmbeddedServer]:
    """A server of this module alone, because its tests change the server's settings."""
    config = on_free_ports(repository, instances=1, threads=1)
    with EmbeddedServer(config) as running:
        yield running


def config_of(server: EmbeddedServer) -> str:
    with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{MODEL}/config") as answer:
        return answer.read().decode()


def load(server: EmbeddedServer, **parameters: str) -> None:
    """Load the network with only these parameters."""
    config = json.loads(config_of(server))
    config["parameters"] = {name: {"string_value": value} for name, value in parameters.items()}
    load_model(server.http_url, MODEL, json.dumps(config), key=server.control_key, timeout=240)


def processes(server: EmbeddedServer) -> list[Path]:
    """Return the folders in /proc of the processes of the network's instances."""
    return [Path(f"/proc/{child}") for child in children_of(server.process_id) if f"/{MODEL}/" in command_line(child)]


def threads(server: EmbeddedServer) -> int:
    """Return the number of threads of each of the network's two instances, once their predecessors have exited."""
    deadline = time.monotonic() + 120
    while len(found := processes(server)) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    one, other = (len(list((process / "task").iterdir())) for process in found)
    assert one == other
    return one


def probabilities(server: EmbeddedServer) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(2, 50, len(FEATURES))).astype(np.float32)
    tensor = triton.InferInput("features", features.shape, "FP32")
    tensor.set_data_from_numpy(features)
    with triton.InferenceServerClient(server.grpc_url) as client:
        return client.infer(MODEL, [tensor]).as_numpy("reentry_probability")


def test_the_running_configuration_differs_from_the_file_only_in_the_fitted_settings(
    own_server: EmbeddedServer, repository: Path
) -> None:
    file = (repository / MODEL / "config.pbtxt").read_text()
    assert read(file).instance_group[0].count == 3
    assert differences(file, config_of(own_server)) == [
        "instance_group[0].count: 3 in the file, 2 in the server (fitted to its machine by `reentry serve`)"
    ]
    for name in ("track_features", "track_decision", "reentry"):
        with urllib.request.urlopen(f"http://{own_server.http_url}/v2/models/{name}/config") as answer:
            assert differences((repository / name / "config.pbtxt").read_text(), answer.read().decode()) == []
    other = file.replace("max_queue_size: 512", "max_queue_size: 9")
    assert differences(other, config_of(own_server))[1:] == [
        "dynamic_batching.default_queue_policy.max_queue_size: 9 in the file, 512 in the server"
    ]


def test_a_documented_setting_takes_effect_and_an_unsupported_one_leaves_the_model_running(
    own_server: EmbeddedServer,
) -> None:
    load(own_server, intra_op_thread_count="1")
    expected, single = probabilities(own_server), threads(own_server)
    load(own_server, intra_op_thread_count="4", execution_mode="0", enable_mem_arena="0", enable_mem_pattern="0")
    assert threads(own_server) == single + 3
    np.testing.assert_allclose(probabilities(own_server), expected, rtol=0, atol=1e-6)

    config = json.loads(config_of(own_server))
    for setting, changed in (
        ("input.optional", {"input": [config["input"][0] | {"optional": True}]}),
        ("model_transaction_policy.decoupled", {"model_transaction_policy": {"decoupled": True}}),
        ("model_operations", {"model_operations": {"op_library_filename": ["a.so"]}}),
    ):
        with pytest.raises(ServerError, match=f"{setting} is not supported .*Supported: "):
            load_model(
                own_server.http_url, MODEL, json.dumps(config | changed), key=own_server.control_key, timeout=240
            )
    with pytest.raises(ServerError, match=r"parameter gpu_mem_limit is not supported .*Supported: "):
        load(own_server, gpu_mem_limit="1")
    np.testing.assert_allclose(probabilities(own_server), expected, rtol=0, atol=1e-6)
