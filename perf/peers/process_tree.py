"""Processor time and memory of a server with all its child processes, from /proc; see proc(5)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_PSS: Final = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def process_tree(root: int) -> list[int]:
    """Return the process ids of a process and all its descendants; empty if it has ended."""
    children = defaultdict(list)
    for pid, fields in _stats().items():
        children[int(fields[1])].append(pid)
    found = [root] if (_PROC / str(root)).exists() else []
    for pid in found:  # the list grows while it is read
        found += children[pid]
    return found


def tree_cpu_seconds(root: int) -> float:
    """Return the user and system time that the living processes of a tree have used, s."""
    stats = _stats()
    ticks = sum(int(stats[pid][11]) + int(stats[pid][12]) for pid in process_tree(root) if pid in stats)
    return ticks / os.sysconf("SC_CLK_TCK")


def tree_memory(root: int) -> int:
    """Return the memory of a tree in bytes, see `memory_of`."""
    return memory_of(process_tree(root))


def memory_of(processes: Iterable[int]) -> int:
    """Return the memory of processes in bytes, in which a page that N of them share counts 1/N for each (PSS)."""
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError):  # the process has ended
            found = _PSS.search((_PROC / str(pid) / "smaps_rollup").read_text())
            total += int(found[1]) * 1024 if found else 0
    return total


def kill_survivors(started: dict[int, str]) -> None:
    """Kill those processes of `start_times` that still run. A new process with a reused id has another start time."""
    for pid, time in start_times(list(started)).items():
        if time == started[pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start_times(pids: list[int]) -> dict[int, str]:
    """Return the start time of each running process, in clock ticks since the boot."""
    stats = _stats()
    return {pid: stats[pid][19] for pid in pids if pid in stats}


def _stats() -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat from the state on, by process id."""
    found = {}
    for path in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            found[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    return found
