"""Atomic writes of files, clear errors for places that are not writable, and the SHA-256 of a file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from reentry.errors import InputError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into an InputError.

    Raises:
        InputError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(folder: Path) -> None:
    """Check before long work that files can be created in a folder, which may not exist yet. Nothing is left behind.

    Raises:
        InputError: the folder is not writable.
    """
    place = folder.absolute()
    with writing(folder):
        while not place.exists() and place != place.parent:
            if place.is_symlink():  # a broken link, for which mkdir fails
                raise OSError(errno.ENOENT, "broken symbolic link")
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` after the block, or removed if the block raises.

    Temporary files of killed processes are removed when `path` is next written.

    Example:
        with whole_file(Path("report.json")) as temporary:
            temporary.write_text("{}")

    Raises:
        InputError: the folder is not writable, or the disk is full.
    """
    # The removal is registered before the file is created, so that a signal in between leaves no file behind.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{path.suffix}")
    with ExitStack() as stack:
        stack.callback(_unlink, temporary)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            stack.callback(os.close, _create_locked(temporary))
        try:
            yield temporary
        except OSError as error:
            if error.errno in _FULL:  # another error may come from a file that the block reads
                raise _unwritable(path, error) from error
            raise
        with writing(path):
            temporary.replace(path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes left behind.

    The file of a live process is locked and stays. On a file system without locks every file stays.
    """
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(path.suffix)}")
    with suppress(OSError), os.scandir(path.parent) as entries:
        found = [Path(entry) for entry in entries if leftover.fullmatch(entry.name) and entry.is_file()]
        for temporary in found:
            with suppress(OSError), temporary.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()


def _create_locked(temporary: Path) -> int:
    """Create an empty file and lock it until the returned descriptor is closed."""
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process removed it before it was locked


def _unlink(temporary: Path) -> None:
    with suppress(OSError):  # the file may not exist
        temporary.unlink()


def _unwritable(path: Path, error: OSError) -> InputError:
    # mkdir raises FileExistsError for a file with the name of the folder.
    is_file = isinstance(error, FileExistsError)
    reason = "a file exists where a folder is needed" if is_file else error.strerror or str(error)
    fix = "free disk space, grant write permission, or choose another path"
    return InputError(f"cannot be written: {reason}", where=str(path), fix=fix)
