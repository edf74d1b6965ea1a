"""History of a table up to a version."""

from __future__ import annotations

import json
from typing import Any, Final

from deltalake import DeltaTable

from pipeline.lake.lake import FENCE, Lake

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


def changed_partitions(lake: Lake, name: str, column: str, old: int, new: int) -> set[str | None]:
    """Return the partitions whose rows may differ between two versions, in whichever order they are given.

    The log says of each file whether it was added or removed with a change of rows. Compaction is no change.

    Args:
        lake: The tables.
        name: Name of the table.
        column: Column that the table is partitioned by.
        old: Version of the table.
        new: Version of the table.

    Returns:
        Values of the column; None among them stands for any partition.

    Raises:
        LakeError: A version does not exist, or the store is unavailable.
    """
    changed: set[str | None] = set()
    with lake.errors(name, max(old, new)):
        files = lake.files(name)
        for version in range(min(old, new) + 1, max(old, new) + 1):
            with files.open_input_stream(f"_delta_log/{version:020}.json") as log:
                actions = [json.loads(line) for line in log.read().splitlines()]
            for action in actions:
                file = action.get("add") or action.get("remove")
                if file and file["dataChange"]:
                    # A removal need not name its partition.
                    changed.add((file.get("partitionValues") or {}).get(column))
    return changed
