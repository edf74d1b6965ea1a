"""The `cpu` image is built and then run as a pod runs it: not as root, read-only, and without capabilities.

The tests need podman, buildah, root, a package index, and a base image with Python 3.11, which they pull or make with
debootstrap. The first run takes minutes; later runs reuse the image layers.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from client.predict import PredictConfig, predict_file
from reentry.schema import ENSEMBLE
from reentry.serving import EmbeddedServer
from reentry.simulation import simulate_file
from tests.conftest import make_repository
from tests.contract.test_container import DOCKERFILE, ROOT, packages
from tests.integration.test_serving import make_tracks, request_inputs

IMAGE = "localhost/reentry-triton:test"
BASE = "localhost/reentry-test-python:3.11"
OFFICIAL_BASE = "docker.io/library/python:3.11-slim-bookworm"
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
"""Limits of a container. The defaults of podman may exceed the limits of a small machine."""

RUNTIME = ("--runtime", "runc") if shutil.which("runc") else ()

GIGABYTE = 1_000_000_000


def podman(*arguments: str | Path, check: bool = True) -> str:
    result = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0 or not check, result.stderr
    return result.stdout.strip()


def inspect(thing: str) -> dict:
    return json.loads(podman("inspect", thing))[0]


def exists(image: str) -> bool:
    return subprocess.run(["podman", "image", "exists", image], check=False).returncode == 0


def make_base(folder: Path) -> None:
    """Make a base image of Debian with its own Python."""
    for step in (
        ["debootstrap", "--variant=minbase", "bookworm", folder],
        ["chroot", folder, "apt-get", "install", "-qq", "--no-install-recommends", "python3.11-venv", "libpython3.11"],
        ["sh", "-c", f"tar -C {folder} --exclude=./var/cache/apt -c . | podman import - {BASE}"],
    ):
        result = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"no base image: {' '.join(map(str, step[:2]))} failed")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with Python 3.11."""
    for tool in ("podman", "buildah"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0:
        pytest.skip("building with --isolation chroot needs root")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the image needs wheels for Python 3.11, and pip downloads wheels for the running Python")
    for image in (BASE, OFFICIAL_BASE):
        if exists(image):
            return image
    pull = subprocess.run(["podman", "pull", "--quiet", OFFICIAL_BASE], capture_output=True, check=False)
    if pull.returncode == 0:
        return OFFICIAL_BASE
    if shutil.which("debootstrap") is None:
        pytest.skip("no base image: no registry is reachable, and debootstrap is not installed")
    make_base(tmp_path_factory.mktemp("base") / "root")
    return BASE


@pytest.fixture(scope="module")
def image(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("context")
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        name = rule.removeprefix("!")
        if rule.startswith("!") and name != "model_repository":
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, context / name)
    shutil.copy2(ROOT / ".dockerignore", context)
    make_repository(context)
    wheels = fetch_wheels(tmp_path_factory.mktemp("wheels"))
    build = [
        *("buildah", "bud", "--isolation", "chroot", *LIMITS, "--layers", "--format", "docker"),
        *("--build-context", f"wheels={wheels}", "--build-arg", "PIP_NO_INDEX=1"),
        *("--build-arg", f"PYTHON_IMAGE={base}", "--build-arg", "REVISION=abc123"),
        *("--file", DOCKERFILE, "--target", "cpu", "--tag", IMAGE, context),
    ]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return IMAGE


def fetch_wheels(folder: Path) -> Path:
    """Download the locked packages of the image into a folder, and return the folder."""
    lock = (ROOT / "requirements.lock").read_text()
    entries = dict(re.findall(r"^(([a-z0-9-]+)==(?:.*\\\n)*.*)$", lock, re.MULTILINE))
    wanted = [entry for entry, name in entries.items() if name in packages("SERVER") | {"setuptools"}]
    (folder / "locked.txt").write_text("\n".join(wanted))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    result = subprocess.run(
        [*pip, "--require-hashes", "--dest", folder, "--requirement", folder / "locked.txt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        pytest.skip(f"no package index is reachable: {result.stderr.strip().splitlines()[-1]}")
    return folder


@dataclass(frozen=True)
class Container:
    name: str

    def address(self, port: int) -> str:
        """Return the address on the host that leads to a port of the container."""
        return podman("port", self.name, str(port))

    def logs(self) -> str:
        result = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, check=True)
        return result.stdout + result.stderr

    def is_healthy(self) -> bool:
        """Return whether the image's HEALTHCHECK succeeds. Without systemd, podman does not run it by itself."""
        command = inspect(IMAGE)["Healthcheck"]["Test"]
        assert command[0] == "CMD"
        result = subprocess.run(["podman", "exec", self.name, *command[1:]], capture_output=True, check=False)
        return result.returncode == 0

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 120
        while not self.is_healthy():
            assert inspect(self.name)["State"]["Running"], self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)


@contextmanager
def running(*options: str) -> Iterator[Container]:
    container = Container(f"reentry-test-{uuid.uuid4().hex[:8]}")
    podman(
        *(*RUNTIME, "run", "--detach", "--name", container.name, *LIMITS, "--no-healthcheck"),
        *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:size=64m,mode=1777", "--shm-size", "512m"),
        *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
        *("--publish", "127.0.0.1::8000", "--publish", "127.0.0.1::8001", "--publish", "127.0.0.1::8002"),
        *(*options, IMAGE),
    )
    try:
        container.wait_until_healthy()
        yield container
    finally:
        podman("rm", "--force", "--time", "0", container.name, check=False)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    with running("--env", "REENTRY_INSTANCES=3") as one:
        yield one


def test_the_image_is_small_and_labelled(image: str) -> None:
    found = inspect(image)
    assert found["Size"] < GIGABYTE
    assert found["Config"]["User"] == "1000:1000"
    assert set(found["Config"]["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp"}
    assert found["Labels"]["org.opencontainers.image.revision"] == "abc123"


def test_the_image_contains_no_compiler_no_training_code_and_no_build_index(image: str) -> None:
    script = (
        "command -v gcc cc c++ g++ make; python3 -c 'import torch' 2>/dev/null && echo torch; "
        "python3 -c 'import pip' 2>/dev/null && echo pip; ls -d /wheels /build /root/.cache/pip 2>/dev/null; true"
    )
    assert podman(*RUNTIME, "run", "--rm", *LIMITS, "--entrypoint", "sh", image, "-c", script) == ""
    assert not [name for name in inspect(image)["Config"]["Env"] if name.startswith(("PIP_", "UV_", "HTTP"))]


def test_the_container_scores_a_file_as_the_embedded_server_does(
    container: Container, server: EmbeddedServer, tmp_path: Path
) -> None:
    source = tmp_path / "sample.csv"
    simulate_file(source, tracks=10, seed=2, labels=False)
    scored = []
    for name, url in (("container", container.address(8001)), ("machine", server.grpc_url)):
        out = tmp_path / name
        prediction = predict_file(PredictConfig(source=source, out=out, url=f"grpc://{url}"))
        assert prediction.set_aside == 0
        scored.append((out / "predictions.csv").read_bytes())
    assert scored[0] == scored[1]
    lines = [json.loads(line) for line in container.logs().splitlines() if line.startswith("{")]
    assert {line["model_version"] for line in lines} == {1}  # the prediction log, on standard output


def test_the_environment_of_the_container_reaches_triton(container: Container) -> None:
    with triton.InferenceServerClient(container.address(8001)) as client:
        group = client.get_model_config("reentry_lstm").config.instance_group[0]
    assert group.count == 3


def test_the_container_warns_about_its_address_and_refuses_model_control(container: Container) -> None:
    assert "warning: the server listens on 0.0.0.0" in container.logs()
    unload = f"http://{container.address(8000)}/v2/repository/models/{ENSEMBLE.name}/unload"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(urllib.request.Request(unload, data=b"{}", method="POST"), timeout=10)
    assert refusal.value.code == 403
    refusal.value.close()


def test_the_metrics_of_the_container_are_readable_from_outside(container: Container) -> None:
    with urllib.request.urlopen(f"http://{container.address(8002)}/metrics", timeout=10) as answer:
        assert b"nv_inference_request_success" in answer.read()


def test_the_container_is_not_root_and_writes_only_to_tmp_and_shared_memory(container: Container) -> None:
    script = (
        "id -u; for place in / /models /opt/reentry /var/tmp; do touch $place/x 2>/dev/null && echo $place; done; true"
    )
    assert podman("exec", container.name, "sh", "-c", script) == "1000"
    assert "1000" in podman("exec", container.name, "sh", "-c", "cat /proc/1/status | grep Uid")


def test_sigterm_lets_requests_in_flight_finish_and_ends_with_status_0(image: str) -> None:
    inputs = request_inputs(make_tracks(64, 1200))
    outcomes: queue.Queue[Exception | None] = queue.Queue()

    def record(result: object, error: Exception | None) -> None:
        outcomes.put(error)

    with running("--env", "REENTRY_INSTANCES=1") as container:
        client = triton.InferenceServerClient(container.address(8001))
        for _ in range(6):
            client.async_infer("reentry", inputs, record)
        first = outcomes.get(timeout=60)  # the other requests are queued or being processed
        podman("kill", "--signal", "TERM", container.name)
        assert [first, *(outcomes.get(timeout=60) for _ in range(5))] == [None] * 6
        client.close()
        assert podman("wait", container.name).splitlines() == ["0"]
        assert "stopped" in container.logs().splitlines()


def test_a_build_without_a_model_names_the_fix(base: str, image: str, tmp_path: Path) -> None:
    # A small build context is enough, because the stage `models` reads nothing else.
    shutil.copy2(ROOT / "requirements.lock", tmp_path)
    (tmp_path / "model_repository/reentry_lstm").mkdir(parents=True)
    build = [
        *("buildah", "bud", "--isolation", "chroot", *LIMITS, "--layers", "--build-arg", f"PYTHON_IMAGE={base}"),
        *("--file", DOCKERFILE, "--target", "models", tmp_path),
    ]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "no model is installed; fix: reentry export" in result.stdout + result.stderr
