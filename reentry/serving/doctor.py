"""Checks of whether this machine can run the embedded server."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from reentry.errors import ReentryError
from reentry.runtime.cores import cores
from reentry.serving.config import ServerConfig, held_ports
from reentry.serving.installation import find_installation, libpython, require_libraries, require_packages
from reentry.serving.repository import FIRST_VERSION, models_of
from reentry.serving.server import EmbeddedServer

Status = Literal["ok", "warn", "fail"]

SHARED_MEMORY: Final = Path("/dev/shm")

ENOUGH_SHARED_MEMORY: Final = 256 << 20
"""Bytes for a few full batches in each of three Python models. A batch of 64 tracks of 1200 steps takes 4 MB."""

LEAST_SHARED_MEMORY: Final = 32 << 20
"""Bytes below which the check fails. Triton takes 1 MB for each instance before the first request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of one check."""

    name: str
    status: Status
    found: str
    fix: str = ""


def examine(config: ServerConfig) -> list[Check]:
    """Run all checks for the configured server. The last check starts it on free ports."""
    checks = [
        _checked("server binary", _server_binary),
        _checked("Python backend stub", _stub),
        _checked("shared libraries", _libraries),
        _checked("Python packages", _packages),
        _checked("ports", lambda: _ports(config)),
        _cores(config),
        _shared_memory(os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None),
        _repository(config.model_repository),
    ]
    server_parts = [check for check in checks if check.name != "ports"]
    if any(check.status == "fail" for check in server_parts) or checks[-1].status != "ok":
        return [*checks, Check(name="start", status="warn", found="not tried", fix="fix the problems above")]
    return [*checks, _checked("start", lambda: _start(config))]


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name=name, status="ok", found=check())
    except ReentryError as error:
        where = f"{error.where}: " if error.where else ""
        return Check(name=name, status="fail", found=f"{where}{error.problem}", fix=error.fix or "")


def _ports(config: ServerConfig) -> str:
    with held_ports(config) as found:
        return f"{', '.join(map(str, found.ports.values()))} are free"


def _repository(folder: Path) -> Check:
    """Check the repository. One without a version is only a warning, because a new checkout has none."""
    check = _checked("model repository", lambda: ", ".join(models_of(folder)))
    return replace(check, status="warn") if check.fix == FIRST_VERSION else check


def _server_binary() -> str:
    installation = find_installation()
    return f"{installation.binary} from nvidia-pytriton {importlib.metadata.version('nvidia-pytriton')}"


def _stub() -> str:
    find_installation()
    return f"for Python {sys.version_info.major}.{sys.version_info.minor}, this is {platform.python_version()}"


def _libraries() -> str:
    require_libraries(find_installation())
    return f"all found, including {libpython()}"


def _packages() -> str:
    require_packages()
    return f"numpy, onnxruntime and reentry, in {sys.prefix}"


def _cores(config: ServerConfig) -> Check:
    available, needed = cores(), config.fitted_instances * config.fitted_threads
    found = f"{available}; instances x threads: {config.fitted_instances} x {config.fitted_threads}"
    if needed > available:
        return Check(name="cores", status="warn", found=found, fix=f"--instances {available} --threads 1")
    return Check(name="cores", status="ok", found=found)


def _shared_memory(volume: os.statvfs_result | None) -> Check:
    free = volume.f_bavail * volume.f_frsize if volume else 0
    status: Status = "fail" if free < LEAST_SHARED_MEMORY else "warn" if free < ENOUGH_SHARED_MEMORY else "ok"
    found = f"{SHARED_MEMORY} has {free >> 20:,} MB free"
    return Check(
        name="shared memory",
        status=status,
        found=found,
        fix="" if status == "ok" else "docker run --shm-size=1g, or an emptyDir of medium Memory at /dev/shm",
    )


def _start(config: ServerConfig) -> str:
    probe = replace(config, http_port=0, grpc_port=0, metrics_port=0, log_directory=None)
    with EmbeddedServer(probe) as server:
        return f"{len(server.models)} models ready in {server.seconds_to_ready:.1f} s"
