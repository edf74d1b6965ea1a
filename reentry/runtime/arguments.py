"""Early checks of a user's arguments: files to read, URLs and numbers in a range."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Final

from reentry.errors import ConfigError, InputError, ReentryError

_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<host>\[[^\[\]@/]+\]|[\w.-]+)(:(?P<port>[0-9]{1,5}))?/?", re.ASCII
)
_LABEL: Final = re.compile(r"\w([\w-]{0,61}\w)?", re.ASCII)
"""One label of a host name."""
_LONGEST_HOST: Final = 253
"""Characters of the longest host name."""

_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def require_file(path: Path, *, error: type[ReentryError] = InputError, fix: str | None = None) -> None:
    """Check that a path is a readable regular file, without opening it.

    Args:
        path: path of the file.
        error: class of the error to raise.
        fix: fix in the error if the file does not exist.

    Raises:
        ReentryError: the path is not a regular file, or is not readable.
    """
    try:
        mode = path.stat().st_mode
    except OSError as reason:
        problem = "no such file" if reason.errno in _MISSING else f"cannot be read: {reason.strerror}"
        raise error(problem, where=str(path) or "''", fix=fix) from reason
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise error("not a file", where=str(path), expected="a regular file", got=what, fix=fix)
    if not os.access(path, os.R_OK):
        raise error("permission denied", where=str(path), fix="grant read permission")


def require_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Check before long work that none of the files to write is an existing folder.

    Raises:
        InputError: one of them is a folder.
    """
    for path in (folder / name for name in names):
        if path.is_dir():
            raise InputError(
                "cannot be written: a folder has the name of the file",
                where=str(path),
                fix="remove the folder, or change --out",
            )


def split_url(url: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of SCHEME://HOST[:PORT]; None for any other text.

    The host is a name of letters, digits, `-`, `_` and `.`, an IPv4 address, or an IPv6 address in brackets. The port
    is 1 to 65535, or None if the URL has none.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return None
    host, port = match["host"], int(match["port"] or 1)
    if host.startswith("["):
        try:
            IPv6Address(host[1:-1])
        except AddressValueError:
            return None
    elif len(host) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in host.rstrip(".").split(".")):
        return None
    if not 1 <= port <= 65_535:
        return None
    return match["scheme"].lower(), host.lower(), port if match["port"] else None


def require_between(name: str, value: float, least: float, most: float, *, unit: str = "") -> None:
    """Check that a number is between two bounds, inclusive. NaN is out of range.

    Raises:
        ConfigError: the number is out of range.
    """
    if not least <= value <= most:
        expected = f"{least:,} to {most:,}" + (f" {unit}" if unit else "")
        raise ConfigError(f"{name} out of range", expected=expected, got=str(value))
