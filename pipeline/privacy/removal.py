"""Removal of data files that no version of a table needs, without harm to writers.

A writer first writes its files and commits them later, so a file that no commit names may belong to a writer at work.
Such a file is taken for one of a killed writer only when it is older than `IN_FLIGHT`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from pipeline.lake.files import missing_files
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage, StoredFile
from pipeline.privacy.data_files import TableFiles
from reentry.errors import LakeError

IN_FLIGHT: Final = dt.timedelta(hours=1)
"""Age up to which a file that no commit names is taken for one of a writer at work."""


def require_removable(storage: Storage, table: str, files: Iterable[StoredFile]) -> None:
    """Check by the present log of a table that its newest version needs none of some files, and no writer will.

    Args:
        storage: Where the files are.
        table: Name of the table.
        files: Files that were listed before this call.

    Raises:
        LakeError: The newest version needs one of the files, or a writer may commit one.
    """
    log = TableFiles(storage, table)
    young = dt.datetime.now(dt.UTC) - IN_FLIGHT
    live = uncommitted = 0
    for file in files:
        live += log.is_live(file)
        uncommitted += file.is_current and not log.is_committed(file) and file.modified > young
    if live:
        raise LakeError(
            f"a writer has committed {live:,} files that would be deleted",
            where=f"{storage.location}/{table}",
            fix="run the same command again",
        )
    if uncommitted:
        raise LakeError(
            f"a writer is at work, or was killed within the last hour: {uncommitted:,} files that would be deleted are "
            "not committed yet",
            where=f"{storage.location}/{table}",
            fix="run the same command again later, at the latest an hour after the last writer has ended",
        )


def remove_files(lake: Lake, storage: Storage, table: str, files: Iterable[StoredFile]) -> None:
    """Delete files of a table for good, unless its newest version needs one of them.

    Args:
        lake: The lake.
        storage: Where the files are.
        table: Name of the table.
        files: Files that no version needs any more.

    Raises:
        LakeError: The files are needed or may be, see `require_removable`; nothing was deleted then. Or a writer has
            committed one of them during the deletion.
    """
    files = list(files)
    if not files:
        return
    require_removable(storage, table, files)
    for file in files:
        storage.delete(file)
    gone = missing_files(lake, table, lake.open(table).version())
    if gone:
        raise LakeError(
            f"the newest version needs {len(gone):,} files that a writer committed during their deletion",
            where=lake.uri(table),
            got=gone[0],
            fix="take them out of the table with `repair` of the Python package deltalake, and write their rows again",
        )
