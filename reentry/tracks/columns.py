"""Whether a file has the columns of a track, and if not, which of its columns are meant."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Final

from reentry.errors import TrackFileError
from reentry.schema import REENTRY_PHASE, TRACK_COLUMNS

_COMPARED: Final = 200
"""Columns of a file that are compared with the missing ones by their letters, which takes long for each."""


def check_columns(path: Path, columns: tuple[str, ...], *, labelled: bool = False) -> None:
    """Accept the columns of a file of tracks, in any order and among others.

    Raises:
        TrackFileError: there is none, some are missing, all of which it names, or one stands twice.
    """
    if not any(columns):
        raise TrackFileError("no columns: a blank file", where=str(path), expected="a header and rows of tracks")
    needed = (*TRACK_COLUMNS, REENTRY_PHASE) if labelled else TRACK_COLUMNS
    missing = [c.name for c in needed if c.name not in columns]
    if missing:
        likely = _likely_names(missing, columns[:_COMPARED])
        hints = [f"{name} (is it {likely[name]!r}?)" if name in likely else name for name in missing]
        shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
        raise TrackFileError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(hints)}",
            where=str(path),
            got=f"the columns {shown[:300]!r}",
            fix="put a header above the rows" if columns and all(map(_is_number, columns)) else None,
        )
    repeated = [name for name, times in Counter(columns).items() if times > 1 and name]
    if repeated:
        raise TrackFileError("a column stands twice", where=str(path), got=", ".join(repeated)[:300])


def _likely_names(missing: list[str], columns: tuple[str, ...]) -> dict[str, str]:
    """For each missing column the one that may be meant: the same but for capitals, else one that looks like it."""
    spare = {name.lower(): name for name in columns if name not in {c.name for c in TRACK_COLUMNS}}
    likely = {name: spare.pop(name) for name in missing if name in spare}
    for name in missing:
        near = difflib.get_close_matches(name, spare, n=1, cutoff=0.5)
        if name not in likely and near:
            likely[name] = spare.pop(near[0])
    return likely


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
