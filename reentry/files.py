"""Files that appear under their name only when whole, and the words for a place that takes none."""

from __future__ import annotations

import errno
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    Example:
        with whole_file(Path("report.json")) as part:
            part.write_text("{}")

    Raises:
        InputError: the place cannot be written to, or is full.
    """
    # Named first and made inside the block: a signal right after the file is there finds somebody who removes it.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.touch(exist_ok=False)
        try:
            yield part
        except OSError as error:
            if error.errno in _FULL:  # any other may be of a file that the block reads
                raise _unwritable(path, error) from error
            raise
        with writing(path):
            part.replace(path)
    finally:
        with suppress(OSError):  # as where it could not be made
            part.unlink()


def _unwritable(path: Path, error: OSError) -> InputError:
    in_the_way = isinstance(error, FileExistsError)  # mkdir's word for a file of the folder's name
    reason = "a file stands where a folder is needed" if in_the_way else error.strerror or str(error)
    return InputError(
        f"cannot be written: {reason}", where=str(path), fix="give another place, or make room or leave to write there"
    )
