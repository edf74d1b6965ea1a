"""One real Triton server for all integration tests, with a small network of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reentry.serving import EmbeddedServer, ServerConfig
from tests.toy_model import write_toy_model

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def copy_repository(folder: Path) -> Path:
    """The configurations and the Python models, without versions of the network."""
    return shutil.copytree(
        REPOSITORY, folder / "model_repository", ignore=shutil.ignore_patterns("*.onnx", "__pycache__")
    )


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's repository, with version 1 of a small network in it."""
    repository = copy_repository(tmp_path_factory.mktemp("served"))
    write_toy_model(repository / "reentry_lstm" / "1" / "model.onnx", version=1)
    return repository


@pytest.fixture(scope="session")
def server(model_repository: Path) -> Iterator[EmbeddedServer]:
    """A running server on free ports."""
    config = ServerConfig(model_repository=model_repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(config) as running:
        yield running
