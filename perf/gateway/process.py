"""A gateway as a process of its own, for measurements."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perf.gateway.plain_chain import ADDRESS
from reentry.errors import ServerError

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway that answers requests."""

    url: str
    headers: Mapping[str, str]
    """Headers with a key."""
    process: int
    """Process id."""


@contextmanager
def running_gateway(folder: Path, triton_url: str, settings: str) -> Iterator[Gateway]:
    """Run `reentry gateway serve` on free ports.

    Args:
        folder: folder of its data and its log.
        triton_url: address of Triton, grpc://HOST:PORT.
        settings: content of its settings file.

    Raises:
        ServerError: it did not start.
    """
    folder.mkdir(parents=True)
    (folder / "gateway.toml").write_text(settings, encoding="utf-8")
    own = {
        "CONFIG": folder / "gateway.toml",
        "DATA": folder / "data",
        "TRITON_URL": triton_url,
        "PORT": 0,
        "METRICS_PORT": 0,
    }
    command = [sys.executable, "-u", "-c", "import cli; cli.main()", "gateway", "serve"]
    environment = os.environ | {f"REENTRY_GATEWAY_{name}": str(value) for name, value in own.items()}
    with (
        (folder / "gateway.log").open("w", encoding="utf-8") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            yield _announced(process, folder / "gateway.log")
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def running_plain_chain(folder: Path, triton_address: str) -> Iterator[Gateway]:
    """Run `perf.gateway.plain_chain` on a free port.

    Args:
        folder: folder of its log.
        triton_address: gRPC address of Triton, HOST:PORT.

    Raises:
        ServerError: it did not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    options = ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", "perf.gateway.plain_chain:app", *options]
    log = folder / "plain_chain.log"
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, env=os.environ | {ADDRESS: triton_address}, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + _START_SECONDS
            while "running on" not in log.read_text(encoding="utf-8"):
                if process.poll() is not None or time.monotonic() > deadline:
                    got = log.read_text(encoding="utf-8")[-500:]
                    raise ServerError("the plain chain did not start", where=str(log), got=got)
                time.sleep(0.1)
            yield Gateway(url=f"http://127.0.0.1:{port}", headers={}, process=process.pid)
        finally:
            process.terminate()
            process.wait()


def _announced(process: subprocess.Popen[str], log: Path) -> Gateway:
    """Read what the gateway prints until it is ready."""
    words: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            headers = {"Authorization": f"Bearer {words['key']}"}
            return Gateway(url=words["gateway"], headers=headers, process=process.pid)
        name, _, rest = line.partition(" ")
        words[name] = rest.split()[0] if rest.split() else ""
    raise ServerError("the gateway did not start", where=str(log), got=log.read_text(encoding="utf-8")[-500:])
