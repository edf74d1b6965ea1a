"""What Triton wrote to its log, read for its reasons."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(r"^E\d{4} [\d:.]+ \d+ \S+\] ")
"""Of an error line: E, month and day, time of day, process, file:line."""


def last_error(log: Path, start: int = 0) -> str | None:
    """The last error in a server's log from byte `start` on; None if it logged none."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if _HEADER.match(line):
            return _HEADER.sub("", line).strip().strip('"')
        if line.startswith("error: "):
            return line.removeprefix("error: ").strip()
    return None
