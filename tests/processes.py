"""What runs on this machine, read from /proc. A process that ends while it is read is left out, not an error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def command_line(process: int) -> str:
    """Program and arguments, each followed by a NUL; empty once the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    return ""


def command_lines() -> dict[int, str]:
    """Those of every process of the machine, by process id."""
    return {int(path.name): command_line(int(path.name)) for path in Path("/proc").glob("[0-9]*")}


def children_of(process: int) -> list[int]:
    """Process ids, in ascending order."""
    children = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):  # one file for each thread
        with suppress(OSError):
            children += [int(child) for child in listed.read_text().split()]
    return sorted(children)
