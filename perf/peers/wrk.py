"""The load generator wrk: N connections that each send the next request when the last one is answered."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perf.peers.protocols import HttpRequest
from reentry.errors import ClientError, ReentryError

SCRIPT: Final = Path(__file__).with_name("load.lua")

_MARK: Final = "figures "
_TIMEOUT: Final = 10
"""Seconds after which wrk counts a request as not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrkFigures:
    """Figures of one run of wrk."""

    requests: int
    """Number of requests that were answered."""
    seconds: float
    """Duration of the run."""
    p50: float
    """Median latency, ms."""
    p99: float
    """99th percentile of the latency, ms."""
    cpu_seconds: float
    """Processor time of wrk itself."""

    @property
    def per_second(self) -> float:
        """Answered requests per second."""
        return self.requests / self.seconds


def find_wrk() -> str:
    """Return the path of the program wrk.

    Raises:
        ReentryError: wrk is not installed.
    """
    program = shutil.which("wrk")
    if program is None:
        raise ReentryError("wrk is not installed", fix="apt-get install wrk")
    return program


def wrk_version() -> str:
    """Return the version of wrk."""
    shown = subprocess.run([find_wrk(), "--version"], capture_output=True, text=True, check=False, timeout=10)
    words = (shown.stdout + shown.stderr).split()
    return words[1] if len(words) > 1 else "unknown"


def write_requests(folder: Path, requests: Sequence[HttpRequest]) -> None:
    """Write the requests into a folder as `load.lua` reads them."""
    for number, request in enumerate(requests):
        (folder / f"{number}.body").write_bytes(request.body)
        headers = "".join(f"{name}: {value}\n" for name, value in request.headers.items())
        (folder / f"{number}.headers").write_text(headers)


def run_wrk(url: str, folder: Path, count: int, *, connections: int, seconds: int, refused: bool = False) -> WrkFigures:
    """Send the requests of a folder in turn over kept-alive connections, from one thread.

    Args:
        url: URL with the path.
        folder: folder of `write_requests`.
        count: number of requests in it.
        connections: number of connections, and so of requests in flight.
        seconds: duration, s.
        refused: whether the server is to refuse the requests; another answer than the first one is a failure then.

    Raises:
        ClientError: a request failed, none was answered, or wrk itself failed.
    """
    command = [find_wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{_TIMEOUT}s", "--script", str(SCRIPT), url, "--", str(folder), str(count)]
    before = _children_seconds()
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds + 3 * _TIMEOUT
    )
    if done.returncode != 0:
        raise ClientError(
            f"wrk ended with status {done.returncode}", where=url, got=(done.stderr or done.stdout)[-300:]
        )
    return read_figures(done.stdout, cpu_seconds=_children_seconds() - before, refused=refused)


def read_figures(output: str, *, cpu_seconds: float, refused: bool = False) -> WrkFigures:
    """Read what wrk and `load.lua` printed.

    Args:
        output: standard output of wrk.
        cpu_seconds: processor time that wrk used.
        refused: whether answers with the status of an error count instead of the others.

    Raises:
        ClientError: a request failed, none was answered, or the line of `load.lua` is missing.
    """
    lines = [line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise ClientError("wrk printed no figures", got=output[-300:])
    content = json.loads(lines[-1])
    if refused:
        content["status"] = max(0, content["requests"] - content["status"] - 1)
    failures = {name: content[name] for name in ("connect", "read", "write", "status", "timeout") if content[name]}
    if failures:
        counts = ", ".join(f"{name} {count}" for name, count in failures.items())
        raise ClientError("requests failed under load", got=f"{counts}; {content['requests']} answers")
    if not content["requests"]:
        raise ClientError("no request was answered under load")
    return WrkFigures(
        requests=content["requests"],
        seconds=content["microseconds"] / 1e6,
        p50=content["p50"] / 1e3,
        p99=content["p99"] / 1e3,
        cpu_seconds=cpu_seconds,
    )


def _children_seconds() -> float:
    """Return the processor time of the child processes of this program that have ended, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
