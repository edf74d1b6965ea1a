"""Which files hold tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from reentry.errors import TrackFileError

CSV_SUFFIXES: Final = (".csv",)
PARQUET_SUFFIXES: Final = (".parquet", ".pq")


def file_format(path: Path) -> str:
    """The suffix of `path`, in small letters, one of `CSV_SUFFIXES` or `PARQUET_SUFFIXES`.

    Raises:
        TrackFileError: any other suffix.
    """
    suffix = path.suffix.lower()
    known = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)
    if suffix not in known:
        raise TrackFileError(
            "unknown kind of file", where=str(path), expected="a name ending in " + " or ".join(known), got=repr(suffix)
        )
    return suffix
