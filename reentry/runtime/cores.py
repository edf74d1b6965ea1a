"""How many cores there are for this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""The quota of this process's control group (version 2): microseconds, or `max`, in each period of microseconds."""


def cores() -> int:
    """Cores that this process may run on; in a container often fewer than the machine has, by its set or its quota."""
    return min(len(os.sched_getaffinity(0)), _quota(CPU_QUOTA))


def _quota(file: Path) -> int:
    """Whole cores that fit the quota in `file`, at least one."""
    try:
        granted, period = file.read_text().split()
    except (OSError, ValueError):  # the root group, or control groups of version 1
        return sys.maxsize
    return sys.maxsize if granted == "max" else max(1, int(granted) // int(period))
