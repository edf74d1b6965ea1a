"""A gateway as a process of its own, for measurements."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reentry.errors import ServerError


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
