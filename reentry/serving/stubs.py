"""The processes that run the Python models, children of the server: Triton 2.51 does not notice when one is killed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


class StubWatch:
    """Finds a model that has lost a process, as the kernel's out-of-memory killer takes one."""

    def __init__(self, server: int) -> None:
        """Watch the children of the process `server`; see proc(5) for the files read."""
        self._server = server
        self._models: dict[int, str] = {}
        self._ended: set[int] = set()
        self.look()

    def look(self) -> str | None:
        """Name the model of a child that had ended at the last look already, and that the server has left so since.

        A model that is unloaded ends its processes, too, but there the server takes note of each.
        """
        ended = set()
        for child in children_of(self._server):
            with contextlib.suppress(OSError):  # gone meanwhile
                if (_PROC / str(child) / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    ended.add(child)
                elif child not in self._models:
                    self._models[child] = _model_of(child)
        lost = sorted(ended & self._ended)
        self._ended = ended
        return self._models.get(lost[0], "a Python model") if lost else None


def children_of(process: int) -> list[int]:
    """Process ids of a process's children."""
    children: list[int] = []
    for file in _PROC.glob(f"{process}/task/*/children"):  # each thread has its own
        with contextlib.suppress(OSError):
            children += map(int, file.read_text().split())
    return children


def _model_of(stub: int) -> str:
    """By the first argument of a stub: .../MODEL/VERSION/model.py."""
    arguments = (_PROC / str(stub) / "cmdline").read_text().split("\0")
    return Path(arguments[1]).parent.parent.name if len(arguments) > 1 else "a Python model"
