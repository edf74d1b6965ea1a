"""Files that appear under their name only when whole, and the words for a place that takes none."""

from __future__ import annotations

import errno
import fcntl
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
    """Say where, when the system refuses what the block does to write `path`.

    Raises:
        InputError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(folder: Path) -> None:
    """Make sure, before long work, that files can be made in a folder, or where it will be; leaves nothing there.

    Raises:
        InputError: they cannot.
    """
    place = folder.absolute()
    with writing(folder):
        while not place.exists() and place != place.parent:
            if place.is_symlink():  # where mkdir makes no folder
                raise OSError(errno.ENOENT, "a symbolic link leads nowhere")
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes that name when the block ends, and vanishes if the block raises.

    What a process that was killed left there is removed by the next one that writes `path`.

    Example:
        with whole_file(Path("report.json")) as part:
            part.write_text("{}")

    Raises:
        InputError: the place cannot be written to, or is full.
    """
    # Named first and made inside the block: a signal right after the file is there finds somebody who removes it.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{path.suffix}")
    with ExitStack() as stack:
        stack.callback(_unlink, part)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            stack.callback(os.close, _made_and_locked(part))
        try:
            yield part
        except OSError as error:
            if error.errno in _FULL:  # any other may be of a file that the block reads
                raise _unwritable(path, error) from error
            raise
        with writing(path):
            part.replace(path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes left of `path`.

    A live process holds a lock on its own, which stays; so does every file where the file system has no locks.
    """
    leftover = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(path.suffix)}")
    with suppress(OSError), os.scandir(path.parent) as entries:
        found = [Path(entry) for entry in entries if leftover.fullmatch(entry.name) and entry.is_file()]
        for part in found:
            with suppress(OSError), part.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()


def _made_and_locked(part: Path) -> int:
    """Make an empty file that `remove_leftovers` of other processes leaves alone until the descriptor is closed."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process took it for a leftover before it was locked


def _unlink(part: Path) -> None:
    with suppress(OSError):  # as where it could not be made
        part.unlink()


def _unwritable(path: Path, error: OSError) -> InputError:
    in_the_way = isinstance(error, FileExistsError)  # mkdir's word for a file of the folder's name
    reason = "a file stands where a folder is needed" if in_the_way else error.strerror or str(error)
    return InputError(
        f"cannot be written: {reason}", where=str(path), fix="give another place, or make room or leave to write there"
    )
