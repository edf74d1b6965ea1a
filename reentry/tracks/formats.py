"""The format of a file of tracks: its suffix and its columns."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Final

from reentry.errors import TrackFileError
from reentry.schema import REENTRY_PHASE, TRACK_COLUMNS

CSV_SUFFIXES: Final = (".csv",)
PARQUET_SUFFIXES: Final = (".parquet", ".pq")

_MOST_COMPARED: Final = 200
"""Maximum number of columns that are searched for a misspelt name, because fuzzy matching is slow."""


def file_format(path: Path) -> str:
    """Return the lower-case suffix of `path`, one of `CSV_SUFFIXES` or `PARQUET_SUFFIXES`.

    Raises:
        TrackFileError: The suffix is not supported.
    """
    suffix = path.suffix.lower()
    supported = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)
    if suffix not in supported:
        expected = "a name ending in " + " or ".join(supported)
        raise TrackFileError("unsupported file type", where=str(path), expected=expected, got=repr(suffix))
    return suffix


def check_columns(path: Path, columns: tuple[str, ...], *, labelled: bool = False) -> None:
    """Check that a file has every column of a track, in any order; other columns are allowed.

    Raises:
        TrackFileError: The file has no columns, a required column is missing, or a column name is repeated. The error
            lists all missing columns.
    """
    if not any(columns):
        raise TrackFileError("no columns: the file is blank", where=str(path), expected="a header and rows of tracks")
    required = (*TRACK_COLUMNS, REENTRY_PHASE) if labelled else TRACK_COLUMNS
    missing = [c.name for c in required if c.name not in columns]
    if missing:
        similar = _similar_names(missing, columns[:_MOST_COMPARED])
        hints = [f"{name} (is it {similar[name]!r}?)" if name in similar else name for name in missing]
        shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
        raise TrackFileError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(hints)}",
            where=str(path),
            got=f"the columns {shown[:300]!r}",
            fix="add a header line above the rows" if columns and all(map(_is_number, columns)) else None,
        )
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        raise TrackFileError("duplicate column name", where=str(path), got=", ".join(repeated)[:300])


def _similar_names(missing: list[str], columns: tuple[str, ...]) -> dict[str, str]:
    """Map a missing column to the column that was probably meant: equal except for case, or else spelt similarly."""
    unused = {name.lower(): name for name in columns if name not in {c.name for c in TRACK_COLUMNS}}
    similar = {name: unused.pop(name) for name in missing if name in unused}
    for name in missing:
        matches = difflib.get_close_matches(name, unused, n=1, cutoff=0.5)
        if name not in similar and matches:
            similar[name] = unused.pop(matches[0])
    return similar


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
