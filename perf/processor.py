"""Processor time of a server's processes, which other load on the machine does not distort."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def machine_cpu_seconds() -> float:
    """Return the time that all processes of the machine and its kernel have used since the boot, s."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(session: int) -> float:
    """Return the user and system time that the processes of a session have used, s. See proc(5) for the fields."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
