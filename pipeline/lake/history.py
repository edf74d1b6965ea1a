"""History of a table up to a version."""

from __future__ import annotations

from typing import Any, Final

from deltalake import DeltaTable

from pipeline.lake.lake import FENCE

_SAME_ROWS: Final = {"OPTIMIZE", "VACUUM START", "VACUUM END"}
"""Operations that change no row."""


def commits(table: DeltaTable) -> list[dict[str, Any]]:
    """Return the commits up to the version at which the table is open, newest first, each with its `version`.

    `DeltaTable.history` returns the later ones too, and numbers them from the version at which the table is open, which
    is right for the newest version only. The log of a table of the lake is never shortened, so it starts at version 0.
    """
    found = table.history()
    numbered = (commit | {"version": len(found) - 1 - index} for index, commit in enumerate(found))
    return [commit for commit in numbered if commit["version"] <= table.version()]


def version_of_rows(table: DeltaTable) -> int:
    """Return the version that has written the rows; later versions have the same rows in other files."""
    changes = (each for each in commits(table) if each["operation"] not in _SAME_ROWS and FENCE not in each)
    return int(next(changes)["version"])
