"""Data files of the tables, whatever version they belong to: search, the versions that contain a file, and removal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage, StoredFile
from pipeline.lake.tables import RAW
from reentry.errors import LakeError

_BATCH_ROWS: Final = 262_144
_COMMIT: Final = re.compile(r"_delta_log/(\d{20})\.json")


def require_places(lake: Lake, landing: Storage) -> None:
    """Check that the table `raw` and the landing folder exist, because nothing is found in a mistyped place.

    An S3 store has no empty folders, so that a landing prefix without objects does not exist.

    Raises:
        LakeError: One of them does not exist, or the store is unavailable.
    """
    if not lake.exists(RAW.name):
        raise LakeError(
            "there is no table raw, so there is nothing to search",
            where=lake.location,
            fix="correct --lake; the table exists after the first `reentry ingest`",
        )
    if not landing.exists():
        raise LakeError(
            "the landing folder does not exist",
            where=landing.location,
            fix="correct --landing; if it is empty, create the folder, or on S3 an empty object .keep in it",
        )


def data_files(storage: Storage, table: str) -> list[StoredFile]:
    """Return all Parquet files of a table, and their earlier versions in a versioned bucket.

    Files of old versions of the table and of killed writers are among them.
    """
    return [file for file in storage.files(table) if file.path.endswith(".parquet") and "/_delta_log/" not in file.path]


def read_batches(storage: Storage, file: StoredFile, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file in parts; nothing if the file has been removed meanwhile.

    Args:
        storage: Where the file is.
        file: The file.
        columns: Columns to read, as far as the file has them; None reads all.

    Raises:
        LakeError: The file is damaged.
    """
    with suppress(FileNotFoundError), storage.open(file) as content:
        try:
            parquet = pq.ParquetFile(content)
            names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise LakeError(
                "a data file is damaged, so its rows cannot be checked",
                where=f"{storage.location}/{file}",
                got=type(error).__name__,
                fix="restore the file, or delete it if no version of the table needs it",
            ) from error


def remove_files(lake: Lake, storage: Storage, table: str, files: Sequence[StoredFile]) -> None:
    """Delete files of a table for good, unless its newest version needs one of them.

    Files of killed writers and of writers at work are deleted too: a fence stops the commits of those writers first.

    Args:
        lake: The lake.
        storage: Where the files are.
        table: Name of the table.
        files: Files that were listed before this call.

    Raises:
        LakeError: A writer has committed one of the files since they were listed; nothing was deleted then.
    """
    if not files:
        return
    lake.fence(table)
    log = TableFiles(storage, table)
    live = sum(log.is_live(file) for file in files)
    if live:
        raise LakeError(
            f"a writer has committed {live:,} files that would be deleted",
            where=f"{storage.location}/{table}",
            fix="run the same command again",
        )
    for file in files:
        storage.delete(file)


class TableFiles:
    """The log of a table: which versions contain a data file.

    The log is read at once. It knows all files that were committed before they were listed only if it is read later.
    """

    def __init__(self, storage: Storage, table: str) -> None:
        self._lives, self._newest = lives_of_files(storage, table)

    def is_live(self, file: StoredFile) -> bool:
        """Return whether the newest version of the table contains a file."""
        life = self._lives.get(file.path)
        return file.is_current and life is not None and life.removed is None

    def versions(self, file: StoredFile) -> set[int]:
        """Return the versions of the table that contain a file; none for a file that was never committed."""
        life = self._lives.get(file.path, Life(added=0, removed=0))
        return set(range(life.added, self._newest + 1 if life.removed is None else life.removed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Range of versions that contain a file: from `added` to before `removed`, which is None in the newest version."""

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
