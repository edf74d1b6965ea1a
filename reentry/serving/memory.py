"""A bound on the memory of the server's processes, so that one request cannot take the machine's.

Triton 2.51 has no bound on the size of a request: it allocates what a request declares. With a limit of the address
space (RLIMIT_AS) such an allocation fails inside one process, which refuses the request or ends, instead of driving the
machine into swapping or its out-of-memory killer.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from reentry.serving.stubs import children_of

MEMORY_MAX: Final = Path("/sys/fs/cgroup/memory.max")
"""Bytes that this process's control group (version 2) may take, or `max`."""

ENOUGH: Final = 2 << 30
"""Bytes. The most that a process took for one request was 0.9 GiB, for a track of a million steps; 0.4 GiB for a batch
of 64 tracks of 10,000 steps."""


def default_memory_limit() -> int:
    """Bytes that each process of the server may take beyond what it has when it is ready: at most half of all."""
    return min(ENOUGH, _memory(MEMORY_MAX) // 2)


def limit_memory(server: int, limit: int) -> None:
    """Let the process `server` and its children take `limit` bytes of address space beyond what they have.

    Children that the server starts later, for a model that is loaded again, inherit the server's own limit.
    """
    for process in (server, *children_of(server)):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            pages = int(Path("/proc", str(process), "statm").read_text().split()[0])
            _, hard = resource.prlimit(process, resource.RLIMIT_AS)
            wanted = pages * os.sysconf("SC_PAGE_SIZE") + limit
            bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.prlimit(process, resource.RLIMIT_AS, (bound, bound))


def _memory(file: Path) -> int:
    """Bytes of memory of this machine, or of this process's control group where that has fewer."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        granted = file.read_text().strip()
    except OSError:  # the root group, or control groups of version 1
        return machine
    return machine if granted == "max" else min(machine, int(granted))
