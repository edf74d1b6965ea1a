"""Number of processor cores that are available to this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""File with the CPU quota of this process's control group (version 2): microseconds, or `max`, and the period."""


def cores() -> int:
    """Return the number of cores available to this process.

    A container often has fewer cores than the machine, because of its CPU set or its quota.
    """
    return min(len(os.sched_getaffinity(0)), _quota(CPU_QUOTA))


def _quota(file: Path) -> int:
    """Return the number of whole cores within the quota, at least one."""
    try:
        granted, period = file.read_text().split()
    except (OSError, ValueError):  # the root group, or control groups of version 1
        return sys.maxsize
    return sys.maxsize if granted == "max" else max(1, int(granted) // int(period))
