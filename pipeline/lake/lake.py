"""Access to the tables of a lake, with commits that happen exactly once.

A fence is an empty commit that stops writers in flight. A writer reads the number of fences of the tables that it
writes to, then its source, and a commit fails if there are more fences by then. An erasure therefore knows that no
writer brings back rows that it has read before the last fence, and which files will never be committed.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
from arro3.core.types import ArrowStreamExportable
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from pyarrow.fs import PyFileSystem

from pipeline.lake.object_store import require_conditional_writes, storage_options
from pipeline.lake.table import LakeTable
from pipeline.lake.tables import TABLES
from reentry.errors import LakeError

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

FENCE: Final = "fence"
"""Entry of the history of a table: the number of a fence, whose commit changes no row."""
_ROW_GROUPS: Final = WriterProperties(max_row_group_size=65_536)
"""Settings of data files. A writer holds one row group of each partition in memory before it compresses them; the
default is a million rows."""
_ATTEMPTS: Final = 50
"""Number of times that a commit is tried against concurrent ones before it is an error."""
_LONGEST_PAUSE: Final = 0.5
"""Longest pause between two attempts, s."""
_FENCES: Final = "fences"
"""Name of the Delta Lake transaction whose version is the number of fences."""
_TABLE_SETTINGS: Final = {
    # Versions stay readable until `pipeline.lake.maintenance` removes files; the log alone is small.
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.deletedFileRetentionDuration": "interval 7 days",
    # The log outlives the files, so it must not hold the least and greatest value of their columns.
    "delta.dataSkippingNumIndexedCols": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFiles:
    """Parquet files for a commit to a table."""

    add: Sequence[AddAction]
    """The files, with paths relative to the table."""
    replaced: Sequence[str] = ()
    """Partitions whose earlier files are removed, as values of the column that the table is partitioned by."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries for the history of the table."""


class Lake:
    """The tables below one location."""

    def __init__(self, location: str) -> None:
        """Name the location, without access to it.

        Args:
            location: Folder, or s3://BUCKET/PREFIX. The environment configures the store: AWS_ENDPOINT_URL,
                AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and so on.

        Raises:
            LakeError: The location has another scheme.
        """
        scheme, separator, rest = location.partition("://")
        if separator and (scheme != "s3" or not rest.partition("/")[0]):
            raise LakeError("unknown kind of lake", where=location, expected="a folder or s3://BUCKET/PREFIX")
        self.location = location.rstrip("/") if separator else str(Path(location).absolute())
        self.storage_options = storage_options() if separator else {}

    def uri(self, name: str) -> str:
        """Return the address of a table.

        Raises:
            LakeError: There is no table of this name.
        """
        if name not in TABLES:
            raise LakeError(f"unknown table {name}", where=self.location, expected=", ".join(TABLES))
        return f"{self.location}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether a table has been created."""
        if name not in TABLES:
            return False
        with self.errors(name):
            return DeltaTable.is_deltatable(self.uri(name), storage_options=self.storage_options)

    def open(self, name: str, version: int | None = None) -> LakeTable:
        """Open a table at a version, by default the newest one.

        Raises:
            LakeError: The table or the version does not exist, or the store is unavailable.
        """
        with self.errors(name, version):
            try:
                return LakeTable(self.uri(name), version=version, storage_options=self.storage_options)
            except DeltaError as error:
                newest = DeltaTable(self.uri(name), storage_options=self.storage_options).version()
                if version is None or version <= newest:
                    raise
                raise LakeError(
                    "there is no such version", where=self.uri(name), expected=f"0 to {newest}", got=str(version)
                ) from error

    def create(self, name: str) -> DeltaTable:
        """Open the newest version of a table, which is created if it does not exist.

        Raises:
            LakeError: The store is unavailable, or has no conditional writes.
        """
        if not self.exists(name):
            table = TABLES[name]
            if self.storage_options:
                require_conditional_writes(self.location)
            try:
                with self.errors(name):
                    DeltaTable.create(
                        self.uri(name),
                        table.schema,
                        mode="ignore",
                        partition_by=list(table.partition_by),
                        name=name,
                        description=table.meaning,
                        configuration=_TABLE_SETTINGS,
                        storage_options=self.storage_options,
                        # Otherwise a process that loses the race would commit the creation a second time.
                        commit_properties=CommitProperties(max_commit_retries=0),
                    )
            except (LakeError, CommitFailedError):
                if not self.exists(name):  # otherwise another process has created it
                    raise
        return self.open(name)

    def commit_once(
        self,
        name: str,
        keys: Sequence[str],
        rows_of: Callable[[Sequence[str], DeltaTable], ArrowStreamExportable],
        *,
        also: Mapping[str, str] | None = None,
        choose: Callable[[Sequence[str], DeltaTable], Sequence[str]] = lambda keys, _table: keys,
        replace: Callable[[Sequence[str], DeltaTable], str | None] = lambda _keys, _table: None,
        metadata: Mapping[str, str] | None = None,
        fences: Mapping[str, int] | None = None,
    ) -> list[str]:
        """Commit the rows of keys that no earlier commit has had, in one commit.

        Delta Lake accepts a transaction of the same application and version again and would store its rows twice.
        Each attempt therefore reads which keys are new on the very handle that commits, and fails if any other commit
        comes between.

        Args:
            name: Name of the table, which is created if it does not exist.
            keys: Names of the units of work, for example objects.
            rows_of: Function from the new keys and the table to their rows; it may be called again.
            also: Additional names of keys. `committed` finds them, but they do not stop a key from being committed.
            choose: Function from the new keys and the table to those of them that are committed; the others stay new.
            replace: Function from the new keys and the table to an SQL predicate of the rows that are replaced, or None
                to append. Every row of `rows_of` must satisfy the predicate.
            metadata: Entries for the history of the table.
            fences: Result of `fences` before the source of the rows was read; None if no erasure concerns the rows.

        Returns:
            The keys that this call has committed.

        Raises:
            LakeError: The store is unavailable or refuses the rows, other writers never let a commit pass, or the table
                has got a fence meanwhile.
        """

        def write(table: DeltaTable, new: Sequence[str], transactions: list[Transaction]) -> None:
            self._write(table, rows_of(new, table), replace(new, table), _commit(metadata, transactions))

        return self._once(name, keys, write, also=also or {}, choose=choose, fences=fences)

    def commit_files_once(
        self,
        name: str,
        key: str,
        files_of: Callable[[DeltaTable], NewFiles],
        *,
        fences: Mapping[str, int] | None = None,
    ) -> bool:
        """Commit Parquet files that were written below the table's location, in one commit, see `files`.

        Args:
            name: Name of the table.
            key: Name of the unit of work; if an earlier commit has had it, nothing is committed.
            files_of: Function from the table to the files; it may be called again. If their partitions replace
                earlier ones, columns that the table lacks are added to it.
            fences: See `commit_once`.

        Returns:
            Whether this call has committed the files.

        Raises:
            LakeError: The store is unavailable, other writers never let a commit pass, or the table has got a fence
                meanwhile.
        """

        def write(table: DeltaTable, _new: Sequence[str], transactions: list[Transaction]) -> None:
            files = files_of(table)
            partition_by = list(TABLES[name].partition_by)
            replaced = [(partition_by[0], "in", list(files.replaced))] if files.replaced else None
            table.create_write_transaction(
                list(files.add),
                "overwrite" if replaced else "append",  # without a filter, overwrite would remove everything
                _widened(table, TABLES[name].schema) if replaced else table.schema(),
                partition_by,
                replaced,
                commit_properties=_commit(files.metadata, transactions),
            )

        return bool(self._once(name, [key], write, also={}, choose=lambda keys, _table: keys, fences=fences))

    def fences(self, *names: str) -> dict[str, int]:
        """Return how many fences each of some tables has, 0 for a table that does not exist.

        A writer calls this before it reads the source of its rows, see `commit_once`.

        Raises:
            LakeError: The store is unavailable.
        """
        return {name: self._fences_of(self.open(name)) if self.exists(name) else 0 for name in names}

    def fence(self, name: str) -> None:
        """Add a fence to a table, which is created if it does not exist: earlier results of `fences` are outdated.

        Raises:
            LakeError: The store is unavailable, or other writers never let a commit pass.
        """

        def attempt(table: DeltaTable) -> None:
            fence = Transaction(_FENCES, self._fences_of(table) + 1)
            properties = _commit({FENCE: str(fence.version)}, [fence])
            partition_by = list(TABLES[name].partition_by)
            table.create_write_transaction([], "append", table.schema(), partition_by, commit_properties=properties)

        self.create(name)
        self._repeated(name, attempt)

    @staticmethod
    def _fences_of(table: DeltaTable) -> int:
        return table.transaction_version(_FENCES) or 0

    def files(self, name: str) -> PyFileSystem:
        """Return the file system of a table, whose root is the location of the table."""
        return PyFileSystem(DeltaStorageHandler(self.uri(name), self.storage_options))

    def _once(
        self,
        name: str,
        keys: Sequence[str],
        write: Callable[[DeltaTable, Sequence[str], list[Transaction]], None],
        *,
        also: Mapping[str, str],
        choose: Callable[[Sequence[str], DeltaTable], Sequence[str]],
        fences: Mapping[str, int] | None,
    ) -> list[str]:
        """Call `write` with the keys that no earlier commit has had, and the transactions that record them."""

        def attempt(table: DeltaTable) -> list[str]:
            new = list(choose([key for key in keys if table.transaction_version(key) is None], table))
            if not new:
                return []
            if fences is not None and self._fences_of(table) != fences[name]:
                raise LakeError(
                    "rows were erased, or old pseudonyms purged, since this command began; nothing was committed",
                    expected="a source that was read after the last fence",
                    got=f"{self._fences_of(table)} fences, of which {fences[name]} existed when it was read",
                    where=self.uri(name),
                    fix="run the command again",
                )
            names = dict.fromkeys([*new, *(also[key] for key in new if key in also)])
            write(table, new, [Transaction(each, 1) for each in names])
            return new

        self.create(name)
        return self._repeated(name, attempt)

    def rewrite(
        self,
        name: str,
        partition: str,
        rows_of: Callable[[DeltaTable], ArrowStreamExportable | None],
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> bool:
        """Replace the rows of one partition of an existing table, unless another commit comes between.

        The log of the table names the partition alone, and not why its rows were replaced.

        Args:
            name: Name of the table.
            partition: Value of the column that the table is partitioned by.
            rows_of: Function from the table to the new rows of the partition, or to None if there is nothing to
                change; it may be called again.
            metadata: Entries for the history of the table.

        Returns:
            Whether the rows were replaced.

        Raises:
            LakeError: The store is unavailable or refuses the rows, or other writers never let a commit pass.
        """
        column = TABLES[name].partition_by[0]
        quoted = partition if pa.types.is_integer(TABLES[name].schema.field(column).type) else sql_text(partition)

        def attempt(table: DeltaTable) -> bool:
            rows = rows_of(table)
            if rows is not None:
                self._write(table, rows, f"{column} = {quoted}", _commit(metadata))
            return rows is not None

        return self._repeated(name, attempt)

    def update(self, name: str, values: Mapping[str, str], predicate: str) -> None:
        """Set columns of text in the rows of a table that satisfy an SQL predicate.

        Raises:
            LakeError: The store is unavailable, or other writers never let a commit pass.
        """

        def attempt(table: DeltaTable) -> None:
            table.update(new_values=dict(values), predicate=predicate, commit_properties=_commit())

        self._repeated(name, attempt)

    def _repeated(self, name: str, attempt: Callable[[DeltaTable], Result]) -> Result:
        """Call a function with the newest version of a table until no other commit comes before its own.

        Raises:
            LakeError: The store is unavailable, or other writers never let a commit pass.
        """
        for number in range(_ATTEMPTS):
            table = self.open(name)
            try:
                with self.errors(name):
                    return attempt(table)
            except CommitFailedError:
                _log.debug("%s: another commit came first, attempt %d", self.uri(name), number + 1)
                time.sleep(random.uniform(0.0, _LONGEST_PAUSE))  # spreads the writers
        raise LakeError("every attempt lost to another commit", where=self.uri(name), fix="run the command again later")

    @staticmethod
    def _write(table: DeltaTable, rows: ArrowStreamExportable, predicate: str | None, commit: CommitProperties) -> None:
        common: dict[str, Any] = {"commit_properties": commit, "writer_properties": _ROW_GROUPS}
        if predicate is None:
            write_deltalake(table, rows, mode="append", schema_mode="merge", **common)
        else:
            write_deltalake(table, rows, mode="overwrite", predicate=predicate, schema_mode="merge", **common)

    def committed(self, name: str, keys: Sequence[str]) -> set[str]:
        """Return which keys `commit_once` has committed; none if the table does not exist."""
        if not self.exists(name):
            return set()
        table = self.open(name)
        with self.errors(name):
            return {key for key in keys if table.transaction_version(key) is not None}

    @contextmanager
    def errors(self, name: str, version: int | None = None) -> Iterator[None]:
        """Convert errors of Delta Lake into LakeErrors, except a lost race for a commit."""
        where = self.uri(name) + ("" if version is None else f"@{version}")
        try:
            yield
        except CommitFailedError:
            raise
        except TableNotFoundError as error:
            raise LakeError(
                "there is no such table", where=where, fix="write it first; docs/pipeline.md has the order of commands"
            ) from error
        except (DeltaError, OSError, pa.ArrowException) as error:
            remote = self.location.startswith("s3://")
            raise LakeError(
                "the table cannot be read or written",
                where=where,
                got=_in_one_line(str(error)) or type(error).__name__,
                fix="check that the store runs, AWS_ENDPOINT_URL and the credentials" if remote else None,
            ) from error


def _in_one_line(text: str) -> str:
    """Return the text of an error of Delta Lake, whose causes are on lines of their own, behind coloured arrows."""
    return ": ".join(re.sub(r"\x1b\[\d*m|↳", "", line).strip() for line in text.strip().splitlines())


def _commit(
    metadata: Mapping[str, str] | None = None, transactions: list[Transaction] | None = None
) -> CommitProperties:
    """Return properties of a commit that fails if another one comes first; by default Delta Lake repeats it."""
    return CommitProperties(app_transactions=transactions, custom_metadata=dict(metadata or {}), max_commit_retries=0)


def _widened(table: DeltaTable, schema: pa.Schema) -> Schema:
    """Return the schema of a table with the columns of another schema that it lacks."""
    present = table.schema()
    names = {field.name for field in present.fields}
    return Schema([*present.fields, *(each for each in Schema.from_arrow(schema).fields if each.name not in names)])


def sql_text(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
