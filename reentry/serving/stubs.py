"""The stub processes that run the Python models. Triton 2.51 does not notice when one of them is killed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


class StubWatch:
    """Detects models whose process was killed, for example by the kernel's out-of-memory killer."""

    def __init__(self, server: int) -> None:
        """Watch the children of the process with the id `server`. proc(5) describes the files that are read."""
        self._server = server
        self._models: dict[int, str] = {}
        self._ended: set[int] = set()
        self.lost_model()

    def lost_model(self) -> str | None:
        """Return the name of a model whose process was already dead at the last call, or None.

        The processes of an unloaded model end as well, but the server reaps those at once.
        """
        ended = set()
        for child in children_of(self._server):
            with contextlib.suppress(OSError):  # reaped in the meantime
                if (_PROC / str(child) / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    ended.add(child)
                elif child not in self._models:
                    self._models[child] = _model_of(child)
        lost = sorted(ended & self._ended)
        self._ended = ended
        return self._models.get(lost[0], "a Python model") if lost else None


def children_of(process: int) -> list[int]:
    """Return the process ids of a process's children."""
    children: list[int] = []
    for file in _PROC.glob(f"{process}/task/*/children"):  # each thread has its own file
        with contextlib.suppress(OSError):
            children += map(int, file.read_text().split())
    return children


def _model_of(stub: int) -> str:
    """Return the model name from a stub's first argument, which is .../MODEL/VERSION/model.py."""
    arguments = (_PROC / str(stub) / "cmdline").read_text().split("\0")
    return Path(arguments[1]).parent.parent.name if len(arguments) > 1 else "a Python model"
