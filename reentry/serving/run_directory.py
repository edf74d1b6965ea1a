"""The folder a server runs from: its backends, its control key and, unless the user names a place, its logs.

The folder is locked for as long as a process of the server lives. A server that was killed leaves its folder without
a lock, and the next one that starts removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from reentry.serving.installation import Installation

_PREFIX: Final = "reentry-serve-"
_KEY_FILE: Final = "control.json"
_SHARED_MEMORY: Final = Path("/dev/shm")


class RunDirectory:
    """A locked folder among the temporary files, for this user alone."""

    def __init__(self) -> None:
        """Make and lock the folder, and remove those of servers that were killed."""
        _remove_leftovers()
        self.path, self.lock = _make_locked()

    @property
    def shared_memory_prefix(self) -> str:
        """Start of the names that the server gives to its shared memory."""
        return _shared_memory_prefix(self.path)

    def write_key(self, address: str, key: str) -> None:
        """Keep the control key of the server at host:port where `find_key` looks for it."""
        file = self.path / _KEY_FILE
        file.touch(mode=0o600)
        file.write_text(json.dumps({"address": address, "key": key}))

    def assemble_backends(self, installation: Installation) -> Path:
        """Lay out `backends/`: Triton's Python backend with the stub of this Python, and our own backends.

        Copies, 3 MB: Triton refuses a backend whose library is a link to somewhere else.
        """
        backends = self.path / "backends"
        shutil.copytree(installation.python_backend, backends / "python")
        shutil.copy2(installation.stub, backends / "python")
        for source in sorted((Path(__file__).parent / "backends").glob("*/model.py")):
            target = backends / source.parent.name
            target.mkdir()
            shutil.copy2(source, target)
        return backends

    def remove(self) -> None:
        """Remove the folder and the shared memory of a server that has ended."""
        _remove(self.path)
        os.close(self.lock)


def find_key(address: str) -> str:
    """The control key of this user's running server at host:port; empty if there is no such server."""
    for folder in _folders():
        with suppress(OSError, ValueError, KeyError, TypeError), _opened(folder) as handle:
            if _lock(handle):
                continue  # its server has ended
            control = json.loads((folder / _KEY_FILE).read_text())
            if control["address"] == address:
                return str(control["key"])
    return ""


def _make_locked() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # another server removed it before it was locked
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks; there nothing is removed either
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return folder, handle
            os.close(handle)


def _remove_leftovers() -> None:
    for folder in _folders():
        with suppress(OSError), _opened(folder) as handle:
            if _lock(handle):
                _remove(folder)


def _folders() -> Iterator[Path]:
    """Folders of this user's servers. Those of other users could hold anything."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
                yield folder


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock a folder; False if a process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(folder: Path) -> None:
    for leftover in _SHARED_MEMORY.glob(f"{_shared_memory_prefix(folder)}*"):
        with suppress(OSError):
            leftover.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _shared_memory_prefix(folder: Path) -> str:
    return f"reentry_{folder.name.removeprefix(_PREFIX)}_"
