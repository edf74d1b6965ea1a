"""Coverage data of processes that were killed while they wrote it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def remove_half_written(folder: Path) -> list[str]:
    """Remove the coverage files that cannot be read, and return their names.

    Such a file ends the run with an internal error if its tables are there and their rows are not.
    """
    broken = [path for path in sorted(folder.glob(".coverage.*")) if not _is_whole(path)]
    for path in broken:
        path.unlink()
    return [path.name for path in broken]


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as data:
            data.execute("SELECT version FROM coverage_schema")
            return data.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except sqlite3.Error:
        return False
