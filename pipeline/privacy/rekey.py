"""Rotation of the pseudonyms: rows of older keys get the pseudonyms of the newest key, without any plain id."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage, StoredFile, staged_files
from pipeline.lake.tables import CLEAN, EXTRA, FEATURES_TABLE, KEY_ID, OPERATOR_ID, RAW
from pipeline.privacy.data_files import TableFiles, data_files, read_batches, remove_files
from pipeline.privacy.keys import PseudonymKeys, add_key, load_keys
from pipeline.privacy.partitions import change_rows
from pipeline.privacy.pseudonyms import EXTRA_TEXT, OPERATOR, SENSOR, rotated
from pipeline.privacy.runs import mark_runs
from pipeline.privacy.subject import Mask
from pipeline.settings import PipelineSettings
from reentry.schema import SENSOR_ID

_log = logging.getLogger(__name__)

TABLES_WITH_PSEUDONYMS: Final = (RAW.name, CLEAN.name, FEATURES_TABLE.name)
_IN_EXTRA: Final = re.compile(r'"hmac:(\d+)"')


@dataclass(slots=True, kw_only=True)
class RotationReport:
    """Result of a rotation."""

    key_id: str
    """Id of the key that all rows have now."""
    added: bool
    """Whether this run has added the key."""
    rows: dict[str, int] = field(default_factory=dict)
    """Number of rows of each table that got new pseudonyms."""
    old_files: dict[str, int] = field(default_factory=dict)
    """Number of files of earlier versions with pseudonyms of older keys, which were deleted or are left, by table."""
    purged: bool = False
    """Whether these files were deleted."""
    runs: list[str] = field(default_factory=list)
    """Ids of the training runs that are marked as no longer reproducible."""

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        return asdict(self)

    def summary(self) -> str:
        """Return the result as text."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items()) or "none"
        files = ", ".join(f"{name} {count:,}" for name, count in self.old_files.items()) or "none"
        lines = [
            f"key of all rows: {self.key_id}{' (new)' if self.added else ''}",
            f"rows with new pseudonyms: {rows}",
            f"files of earlier versions with older pseudonyms, {'deleted' if self.purged else 'left'}: {files}",
        ]
        if self.old_files and not self.purged:
            lines.append("  --purge deletes them, and marks the training runs that can then not be reproduced")
        lines += [f"training runs marked as not reproducible: {', '.join(self.runs)}"] if self.runs else []
        return "\n".join(lines)


def rekey(settings: PipelineSettings, *, new_key: bool = False, purge: bool = False) -> RotationReport:
    """Give all rows of the newest versions the pseudonyms of the newest key.

    A rotation that was killed is finished by a call without a new key. A call with a new key gives its pseudonyms to
    all rows too, whether an earlier rotation was finished or not.

    Args:
        settings: Locations and keys.
        new_key: Whether to add a key to the secret first.
        purge: Whether to delete the files of earlier versions with pseudonyms of older keys.

    Raises:
        ConfigError: The keys are unavailable, cannot be changed, or do not contain a key that rows were written with.
        LakeError: The lake is unavailable, other writers never let a commit pass, or a writer has committed a file that
            `purge` would delete.
    """
    keys = load_keys(settings.pseudonym_keys)
    lake = Lake(settings.lake)
    storage = Storage(lake.location)
    if new_key:
        _require_known_keys(lake, keys)
        keys = add_key(settings.pseudonym_keys)
    report = RotationReport(key_id=keys.current, added=new_key, purged=purge)
    for table in TABLES_WITH_PSEUDONYMS:
        count = change_rows(
            lake, table, [KEY_ID], partial(_is_older, keys), partial(_rekeyed, keys), {"rekey": keys.current}
        )
        if count:
            report.rows[table] = count
            _log.info("%s: %d rows have the pseudonyms of %s", table, count, keys.current)
    old = {table: _old_files(storage, table, keys) for table in TABLES_WITH_PSEUDONYMS}
    report.old_files = {table: len(files) for table, files in old.items() if files}
    if purge:
        versions = {table: set[int]().union(*files.values()) for table, files in old.items()}
        time = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        report.runs = mark_runs(lake, versions, f"rotation-{keys.current}", time)
        for table, files in old.items():
            remove_files(lake, storage, table, list(files))
    return report


def _require_known_keys(lake: Lake, keys: PseudonymKeys) -> None:
    for table in TABLES_WITH_PSEUDONYMS:
        if lake.exists(table):
            for batch in lake.open(table).to_pyarrow_dataset().to_batches(columns=[KEY_ID]):
                _is_older(keys, pa.Table.from_batches([batch]))


def _old_files(storage: Storage, table: str, keys: PseudonymKeys) -> dict[StoredFile, set[int]]:
    """Return the files of earlier versions with rows of older keys, and the versions that contain each.

    Files that a writer has not finished are among them, because their rows cannot be read.
    """
    older = [
        file
        for file in data_files(storage, table)
        if any(_is_older(keys, rows).any() for rows in read_batches(storage, file, [KEY_ID]))
    ]
    log = TableFiles(storage, table)
    found = {file: log.versions(file) for file in older if not log.is_live(file)}
    return found | {file: set[int]() for file in staged_files(storage, table)}


def _is_older(keys: PseudonymKeys, rows: pa.Table) -> Mask:
    for key_id in pc.unique(rows[KEY_ID]).to_pylist():
        keys.after(str(key_id))  # raises an error for an unknown key
    older: Mask = pc.not_equal(rows[KEY_ID], keys.current).to_numpy().astype(bool)
    return older


def _rekeyed(keys: PseudonymKeys, rows: pa.Table, _older: Mask) -> pa.Table:
    ids = rows[KEY_ID].to_pylist()

    def renew(column: str, change: Callable[[str, Any], Any]) -> None:
        nonlocal rows
        values = list(zip(ids, rows[column].to_pylist(), strict=True))
        new = {each: None if each[1] is None else change(*each) for each in set(values)}
        field_ = rows.schema.field(column)
        rows = rows.set_column(
            rows.schema.get_field_index(column), field_, pa.array([new[each] for each in values], field_.type)
        )

    renew(SENSOR_ID.name, lambda key_id, value: rotated(SENSOR, [value], key_id, keys)[value])
    renew(OPERATOR_ID, lambda key_id, value: rotated(OPERATOR, [value], key_id, keys)[value])
    if EXTRA in rows.column_names:
        renew(EXTRA, partial(_renewed_extra, keys))
    renew(KEY_ID, lambda _key_id, _value: keys.current)
    return rows


def _renewed_extra(keys: PseudonymKeys, key_id: str, text: str) -> str:
    """Return the JSON object of unknown columns with the pseudonyms of the newest key."""
    return _IN_EXTRA.sub(
        lambda match: f'"hmac:{rotated(EXTRA_TEXT, [int(match[1])], key_id, keys)[int(match[1])]}"', text
    )
