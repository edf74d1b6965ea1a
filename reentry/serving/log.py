"""Reasons of failures in Triton's log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(r"^E\d{4} [\d:.]+ \d+ \S+\] ")
"""Header of an error line: E, month and day, time of day, process, file:line."""

_NO_GPU: Final = re.compile(r"CudaDriverHelper has not been initialized|CUDA driver version is insufficient|NVML")
"""Errors that Triton logs at the start and at each load on a machine without a GPU. They are harmless."""


def last_error(log: Path, start: int = 0) -> str | None:
    """Return the last error in a log after byte `start`, or None. Errors about a missing GPU are skipped."""
    for line in reversed(_lines(log, start)):
        if _HEADER.match(line) and not _NO_GPU.search(line):
            return _HEADER.sub("", line).strip().strip('"')
        if line.startswith("error: "):
            return line.removeprefix("error: ").strip()
    return None


def uncaught_exception(log: Path, start: int = 0) -> str | None:
    """Return the uncaught C++ exception in a log after byte `start`, or None."""
    found = None
    for line in _lines(log, start):
        if line.startswith("terminate called"):
            found = line.rpartition("'")[0].rpartition("'")[2] or line
        elif found and line.startswith("  what():"):
            found = line.removeprefix("  what():").strip()
    return found


def _lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()
