"""Fixtures: an S3-compatible store on this machine, and a store of each kind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from registry.models import DEFAULT_MODEL, MODELS
from registry.open import open_store
from registry.s3_store import ObjectStore
from registry.store import CONFIG_FILE, VersionStore
from tests.versions import bare_repository


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """URL of an S3-compatible store on this machine."""
    put_object, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_object_at_once(response: S3Response) -> Any:
        """Check the condition of a write and write in one step, as S3 does; moto takes two."""
        with one_at_a_time:
            return put_object(response)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_object_at_once)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def bucket(object_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a new bucket for this test."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket-{abs(hash(request.node.nodeid))}"
    ObjectStore(f"s3://{name}", MODELS[DEFAULT_MODEL])._files.mkdir(name)
    yield name
    gc.collect()  # closes the test's sessions while its warning filter is active


def upload(config: str, location: str, model: str = DEFAULT_MODEL) -> VersionStore:
    """Make a repository in an S3-compatible store that holds the config.pbtxt of one model."""
    empty = ObjectStore(location, MODELS[model])
    empty.write(CONFIG_FILE, config, over=empty.read(CONFIG_FILE))
    return open_store(location, model)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    """An empty store of each kind."""
    repository = bare_repository(tmp_path)
    if request.param == "folder":
        return open_store(repository)
    config = (repository / DEFAULT_MODEL / CONFIG_FILE).read_text()
    return upload(config, f"s3://{request.getfixturevalue('bucket')}/models/here")
