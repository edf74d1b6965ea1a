"""One run of a command of this program in a process of its own, with its processor time and memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reentry.errors import ReentryError

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredProcess:
    """Output and cost of one run."""

    output: str
    """Text on standard output."""
    wall_seconds: float
    """Time from the start of the process to its end, s."""
    cpu_seconds: float
    """User and system time of the process and its children, s."""
    peak_bytes: int
    """Largest resident memory of the process."""
    child_peak_bytes: int
    """Largest resident memory of any of its child processes; 0 without children."""


def measured(arguments: Sequence[str]) -> MeasuredProcess:
    """Run `reentry` with some arguments.

    Raises:
        ReentryError: The command failed.
    """
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", "import cli; cli.main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        peaks = _peaks(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output, errors = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]  # they are pipes
    if process.returncode != 0:
        raise ReentryError(f"reentry {arguments[0]} failed: {errors.strip()}", where=" ".join(arguments[1:2]))
    own = peaks.pop(process.pid, 0)
    return MeasuredProcess(
        output=output,
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=own,
        child_peak_bytes=max(peaks.values(), default=0),
    )


def _peaks(pid: int) -> dict[int, int]:
    """Wait until a child process has ended; return the largest resident memory of it and its children, in bytes.

    The kernel's figure for ended children starts from the memory of the parent, so the status of each one is read.
    """
    peaks: dict[int, int] = {}
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        for each in (pid, *_children(pid)):
            with contextlib.suppress(OSError):  # the process has ended
                for line in Path(f"/proc/{each}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        peaks[each] = int(line.split()[1]) * 1024
        time.sleep(_POLL_SECONDS)
    return peaks


def _children(pid: int) -> list[int]:
    children = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):  # one file for each thread
        with contextlib.suppress(OSError):
            children += [int(child) for child in listed.read_text().split()]
    return children
