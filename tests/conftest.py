"""What all tests share: a model repository with a small network, and a real Triton server over it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.http import CONTROL_HEADER
from tests.toy_model import write_toy_model
from tests.versions import pin

REPOSITORY = Path(__file__).parents[1] / "model_repository"

# A runner started by nohup ignores SIGHUP, one in a shell's background SIGINT, and so would what the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def copy_repository(folder: Path) -> Path:
    """The project's repository without versions of the network, as a clone has it: version 1 is the one to serve."""

    def left_out(parent: str, names: list[str]) -> set[str]:
        versions = {name for name in names if name.isdigit()} if Path(parent).name == "reentry_lstm" else set()
        return versions | {"__pycache__", "labels.json"}

    repository = shutil.copytree(REPOSITORY, folder / "model_repository", ignore=left_out)
    pin(repository, 1)
    return repository


def make_repository(folder: Path) -> Path:
    """The same with version 1 of a small network."""
    repository = copy_repository(folder)
    write_toy_model(repository / "reentry_lstm" / "1" / "model.onnx", version=1)
    return repository


def grpc_key(server: EmbeddedServer) -> dict[str, str]:
    """Headers of a gRPC request that changes the server."""
    return {f"triton-grpc-protocol-{CONTROL_HEADER}": server.control_key}


@pytest.fixture(scope="session", autouse=True)
def store_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where trainings of tests are recorded, those of commands that they start among them."""
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{tmp_path_factory.mktemp('runs') / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: read only."""
    return make_repository(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(model_repository: Path) -> Iterator[EmbeddedServer]:
    """A running server on free ports, one for all tests."""
    config = ServerConfig(model_repository=model_repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(config) as running:
        yield running
