"""Temporary folder of a running server with its backends, its control key and, by default, its logs.

The folder is locked while a process of the server lives. A killed server leaves an unlocked folder, which the next
server removes at its start.
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
    """A locked temporary folder that only this user can read."""

    def __init__(self) -> None:
        """Create and lock the folder, and remove the folders of killed servers."""
        _remove_leftovers()
        self.path, self.lock = _create_locked()

    @property
    def shared_memory_prefix(self) -> str:
        """Prefix of the names of the server's shared memory."""
        return _shared_memory_prefix(self.path)

    def write_key(self, address: str, key: str) -> None:
        """Store the control key of the server at host:port for `find_key`."""
        file = self.path / _KEY_FILE
        file.touch(mode=0o600)
        file.write_text(json.dumps({"address": address, "key": key}))

    def assemble_backends(self, installation: Installation) -> Path:
        """Create the folder `backends` with Triton's Python backend, the stub for this Python, and our own backends.

        The files are copied, 3 MB, because Triton refuses a backend whose library is a symbolic link.
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
        """Remove the folder and the shared memory of a server that has exited."""
        _remove(self.path)
        os.close(self.lock)


def find_key(address: str) -> str:
    """Return the control key of this user's running server at host:port; empty if there is no such server."""
    for folder in _folders():
        with suppress(OSError, ValueError, KeyError, TypeError), _opened(folder) as handle:
            if _lock(handle):
                continue  # its server has exited
            control = json.loads((folder / _KEY_FILE).read_text())
            if control["address"] == address:
                return str(control["key"])
    return ""


def _create_locked() -> tuple[Path, int]:
    """Create a folder and return it with the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # another server removed it before it was locked
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks, where no folder is removed either
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
    """Yield the folders of this user's servers. Those of other users are not trusted."""
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
    """Lock an open folder; return False if another process holds the lock."""
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
