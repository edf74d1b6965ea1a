"""Versions of a table that contain a data file, from the table's log."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from pipeline.lake.storage import Storage
from reentry.errors import LakeError

_COMMIT: Final = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Versions of a table from `added` up to, but without, `removed`; None is a file of the newest version."""

    added: int
    removed: int | None


def lives_of_files(storage: Storage, table: str) -> tuple[dict[str, Life], int]:
    """Return the life of each data file by its path below the location, and the newest version, -1 without a table.

    Files that no commit names, such as those of killed writers, are missing. The log of a table is never shortened,
    see `pipeline.lake.lake`.

    Raises:
        LakeError: The log is damaged, or the store is unavailable.
    """
    lives: dict[str, Life] = {}
    newest = -1
    for file in storage.files(f"{table}/_delta_log"):
        match = _COMMIT.fullmatch(file.path.removeprefix(f"{table}/"))
        if match is None or not file.is_current:
            continue
        newest = max(newest, int(match[1]))
        with storage.open(file) as log:
            for line in log:
                try:
                    action = json.loads(line)
                except ValueError as error:
                    raise LakeError(
                        "the log of the table is damaged",
                        where=f"{storage.location}/{file}",
                        fix="restore the file, for example from an earlier version of the object",
                    ) from error
                if "add" in action:
                    lives[_path(table, action["add"])] = Life(added=int(match[1]), removed=None)
                elif "remove" in action and _path(table, action["remove"]) in lives:
                    path = _path(table, action["remove"])
                    lives[path] = Life(added=lives[path].added, removed=int(match[1]))
    return lives, newest


def _path(table: str, action: dict[str, str]) -> str:
    return f"{table}/{unquote(action['path'])}"
