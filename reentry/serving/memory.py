"""Memory limit of the server's processes.

Triton 2.51 does not limit the size of a request: it allocates what the request declares. With a limit on the address
space (RLIMIT_AS) such an allocation fails in one process, which refuses the request or exits. Without it the machine
starts to swap, or its out-of-memory killer ends a process.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from reentry.serving.stubs import children_of

MEMORY_MAX: Final = Path("/sys/fs/cgroup/memory.max")
"""File with the memory limit of this process's control group (version 2): bytes, or `max`."""

ENOUGH: Final = 2 << 30
"""Bytes that are enough for any request. The largest measured use of one process was 0.9 GiB, for a track of a million
steps. A batch of 64 tracks of 10,000 steps used 0.4 GiB."""

INSTANCE: Final = 256 << 20
"""Bytes of address space that the server reserves for each instance of a Python model or network, mostly for threads. A
reload can start as many instances as there are. A server that cannot start their threads crashes."""


def default_memory_limit() -> int:
    """Return the default limit in bytes: `ENOUGH`, but at most half of the memory."""
    return min(ENOUGH, _memory(MEMORY_MAX) // 2)


def limit_memory(server: int, limit: int) -> None:
    """Limit a server and its children to `limit` bytes of address space beyond their present use.

    The server may use `INSTANCE` bytes more for each child, so that it can reload its models. Children that it starts
    later, for a reloaded model, inherit its limit.
    """
    children = children_of(server)
    for process in (server, *children):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has exited
            pages = int(Path("/proc", str(process), "statm").read_text().split()[0])
            _, hard = resource.prlimit(process, resource.RLIMIT_AS)
            size = pages * os.sysconf("SC_PAGE_SIZE") + limit + (len(children) * INSTANCE if process == server else 0)
            bound = size if hard == resource.RLIM_INFINITY else min(size, hard)
            resource.prlimit(process, resource.RLIMIT_AS, (bound, bound))


def _memory(file: Path) -> int:
    """Return the bytes of memory of this machine, or of this process's control group if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        granted = file.read_text().strip()
    except OSError:  # the root group, or control groups of version 1
        return machine
    return machine if granted == "max" else min(machine, int(granted))
