"""The machine that a measurement ran on: processor and memory."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from reentry.runtime.cores import cores


def machine() -> dict[str, Any]:
    """Return processor, number of cores and memory (GiB) for a report."""
    return {"processor": processor(), "cores": cores(), "memory_gib": memory_gib()}


def processor() -> str:
    """Return the name of the processor from /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gib() -> int:
    """Return the size of the memory, rounded to GiB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
