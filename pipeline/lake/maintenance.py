"""Daily maintenance of the tables: small files are compacted, and files that no kept version needs are removed.

Kept are the newest version, every version that a live training run names or that a labelled version of the model
repository was trained on, and all files that were in use within the retention. Rows never change: compaction writes the
same rows into fewer files, in a version of its own.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from pyarrow.fs import FileType

from pipeline.lake.files import file_infos
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage, staged_files
from pipeline.lake.tables import TABLES
from reentry.errors import InputError
from reentry.runtime.arguments import require_between
from registry.inventory import labelled
from registry.manifest import MANIFEST_FILE
from registry.open import open_store
from registry.store import manifest_of
from training.runs.mlflow_store import database, tracking_uri
from training.runs.parameters import TABLE, TABLE_ID, VERSION
from training.runs.runs import Run, all_runs

_log = logging.getLogger(__name__)

RETENTION_HOURS: Final = 7 * 24
"""Hours for which a file is kept after the last version with it. Readers and writers that started earlier fail."""
_UNFINISHED_HOURS: Final = 1
"""Least number of hours after which an unfinished file is taken for one of a killed writer."""
_MEBIBYTE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Result of the maintenance of one table, or of its dry run."""

    table: str
    compacted: int
    """Number of small files that were replaced by larger ones."""
    into: int
    """Number of these larger files."""
    removed: int
    """Number of files that were removed."""
    bytes: int
    """Size of the files that were removed."""
    kept: list[int]
    """Versions that live runs name, or that labelled models were trained on."""

    def summary(self, *, dry_run: bool = False) -> str:
        """Summary in one line of text."""
        done = "to remove" if dry_run else "removed"
        compacted = f"{self.compacted:,} files compacted into {self.into:,}, " if self.compacted else ""
        kept = f"; versions of runs and labelled models: {', '.join(map(str, self.kept))}" if self.kept else ""
        return f"{self.table}: {compacted}{self.removed:,} files of {self.bytes / _MEBIBYTE:,.1f} MiB {done}{kept}"

    def as_dict(self) -> dict[str, Any]:
        """Summary as a JSON-serialisable dict."""
        return asdict(self)


def maintain(
    lake: Lake,
    *,
    dry_run: bool = False,
    retention_hours: int = RETENTION_HOURS,
    runs: Iterable[Run] | None = None,
    repository: str | None = None,
) -> list[Maintenance]:
    """Compact all tables and remove the files that no kept version needs.

    Args:
        lake: The tables.
        dry_run: Whether to report what would be removed, and to change nothing.
        retention_hours: See `RETENTION_HOURS`.
        runs: Runs whose versions are kept; None reads them from the tracking store, just before files are removed.
        repository: Model repository whose labelled versions are kept reproducible; None for none.

    Raises:
        LakeError: The store of the tables is unavailable.
        InputError: The runs are unknown, so that no version can be given up.
        RepositoryError: The labels or the manifest of a labelled version are unreadable, for the same reason.
    """
    require_between("retention hours", retention_hours, 0, 24 * 36_500)
    named = list(runs) if runs is not None else recorded_runs()
    if repository is not None:
        open_store(repository)  # an unusable one is an error before anything changes
    reports = []
    for name in TABLES:
        if not lake.exists(name):
            continue
        compacted, into = (0, 0) if dry_run else _compact(lake, name)
        if runs is None:
            named = recorded_runs()  # a training may have started during the compaction
        table = lake.open(name)
        kept = versions_of_runs(table, name, named)
        if repository is not None:
            kept = sorted({*kept, *versions_of_labels(table, name, repository)})
        removed, size = _vacuum(lake, name, table, kept, retention_hours, dry_run=dry_run)
        reports.append(Maintenance(table=name, compacted=compacted, into=into, removed=removed, bytes=size, kept=kept))
    return reports


def recorded_runs() -> list[Run]:
    """Return all runs in the tracking store that are not deleted.

    Raises:
        InputError: There is no store, so that the kept versions are unknown.
    """
    uri = tracking_uri()
    file = database(uri)
    if file is not None and not file.is_file():
        raise InputError(
            "there is no record of runs, so the versions to keep are unknown",
            where=uri,
            fix="set MLFLOW_TRACKING_URI, or give --without-runs if no network was ever trained on these tables",
        )
    return all_runs()


def versions_of_runs(table: DeltaTable, name: str, runs: Iterable[Run]) -> list[int]:
    """Return the versions of a table that runs name, except those of failed runs, which cannot be continued."""
    identity, newest = str(table.metadata().id), table.version()
    versions = {
        int(run.parameters[VERSION])
        for run in runs
        if run.status != "FAILED" and run.parameters.get(TABLE) == name and run.parameters.get(TABLE_ID) == identity
    }
    return sorted(version for version in versions if version <= newest)


def versions_of_labels(table: DeltaTable, name: str, repository: str) -> list[int]:
    """Return the versions of a table that the labelled versions of a model repository were trained on.

    A version without a manifest, or without this entry in it, is an old one or was trained on a file.

    Raises:
        RepositoryError: The labels or the manifest of a labelled version are unreadable.
    """
    identity, newest = str(table.metadata().id), table.version()
    store = open_store(repository)
    tables = [
        (each.manifest or manifest_of(store, each.number)).data_table  # raises an error if the manifest is unreadable
        for each in labelled(store)
        if MANIFEST_FILE in each.files
    ]
    versions = {int(each["version"]) for each in tables if each and (each["name"], each["id"]) == (name, identity)}
    return sorted(version for version in versions if version <= newest)


def _compact(lake: Lake, name: str) -> tuple[int, int]:
    """Compact the files of a table; return how many were replaced, and by how many."""
    table = lake.open(name)
    try:
        with lake.errors(name):
            # No retries, so that a fence stops it as it stops every writer, see `pipeline.lake.lake`.
            metrics = table.optimize.compact(commit_properties=CommitProperties(max_commit_retries=0))
    except CommitFailedError as error:
        _log.warning("%s: not compacted, because another writer came first: %s", name, error)
        return 0, 0
    return int(metrics["numFilesRemoved"]), int(metrics["numFilesAdded"])


def _vacuum(
    lake: Lake, name: str, table: DeltaTable, kept: list[int], retention_hours: int, *, dry_run: bool
) -> tuple[int, int]:
    """Remove files; return how many, and their size in bytes."""

    def vacuum(*, dry_run: bool) -> list[str]:
        with lake.errors(name):
            return table.vacuum(
                retention_hours,
                dry_run=dry_run,
                enforce_retention_duration=False,
                full=True,  # also what killed writers left, and what a checkpoint of the log has forgotten
                keep_versions=[*kept, table.version()],
            )

    # The log also names the files that an earlier maintenance has removed.
    present = [info for info in file_infos(lake, name, vacuum(dry_run=True)) if info.type is FileType.File]
    if present and not dry_run:
        vacuum(dry_run=False)
    storage = Storage(lake.location)
    oldest = dt.datetime.now(dt.UTC) - dt.timedelta(hours=max(retention_hours, _UNFINISHED_HOURS))
    unfinished = [file for file in staged_files(storage, name) if file.modified < oldest]
    if not dry_run:
        for file in unfinished:
            storage.delete(file)
    return len(present) + len(unfinished), sum(each.size for each in (*present, *unfinished))
