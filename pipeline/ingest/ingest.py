"""Ingestion of hours: every new file is read once, faults go to `quarantine` first, then good rows to `raw`.

Both tables remember which contents of which objects they have, so the same command repairs a run that was killed
between the two commits, and several processes may run it at the same time.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipeline.ingest.known import ingested_keys, known_keys
from pipeline.ingest.landing import ChangedError, Landed, Landing
from pipeline.ingest.read import DUPLICATE, FileContent, read_landed, whole_file_in_quarantine
from pipeline.lake.lake import Lake, sql_text
from pipeline.lake.spool import read_spools, write_spool
from pipeline.lake.tables import OPEN, QUARANTINE, RAW, SUPERSEDED
from pipeline.privacy.keys import PseudonymKeys, load_keys
from pipeline.settings import PipelineSettings
from reentry.runtime.progress import progress

_log = logging.getLogger(__name__)

COPIES: Final = "reentry-ingest-"
"""Start of the name of the temporary folder with copies of landing files, which hold plain ids."""


@dataclass(slots=True, kw_only=True)
class HourReport:
    """Result of one hour."""

    hour: str
    files: int = 0
    """Files in the landing folder."""
    known: int = 0
    """Files that were ingested before, by this or another process, and files with their content."""
    ingested: int = 0
    """Files whose rows this run added."""
    duplicates: int = 0
    """New files with the content of another file, which add no row."""
    unusable: int = 0
    """Files that are in quarantine as a whole."""
    changed: int = 0
    """Files that changed while they were read; the next run reads them."""
    rows: int = 0
    bad_rows: int = 0
    failed: bool = False
    """Whether the share of bad rows is too large, so that no row of the new files was added to `raw`."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """Result of an ingestion."""

    hours: tuple[HourReport, ...]
    raw_version: int | None
    """Newest version of `raw` afterwards; None if there is no table yet."""

    @property
    def failed(self) -> bool:
        """Whether an hour failed."""
        return any(hour.failed for hour in self.hours)

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        return {"raw_version": self.raw_version, "hours": [asdict(hour) for hour in self.hours]}

    def summary(self) -> str:
        """Return the hours with files as text, one line for each hour and warning."""
        lines = []
        for hour in self.hours:
            if hour.files:
                lines.append(
                    f"{hour.hour}: files {hour.files}, known {hour.known}, ingested {hour.ingested}, "
                    f"duplicates {hour.duplicates}, unusable {hour.unusable}; rows {hour.rows:,}, bad {hour.bad_rows:,}"
                    + (f"; changed while read {hour.changed}" if hour.changed else "")
                    + (" - FAILED: too many bad rows, nothing was added to raw" if hour.failed else "")
                )
                lines += [f"  warning: {text}" for text in hour.warnings]
        empty = sum(hour.files == 0 for hour in self.hours)
        lines += [f"hours without files: {empty}"] if empty else []
        lines.append("raw: " + ("no rows yet" if self.raw_version is None else f"lake:raw@{self.raw_version}"))
        return "\n".join(lines)


def ingest(settings: PipelineSettings, hours: Sequence[str]) -> IngestReport:
    """Ingest the files of some hours.

    Args:
        settings: Locations and limits.
        hours: Names of the hours, see `pipeline.ingest.hours`.

    Raises:
        ConfigError: The keys of the pseudonyms are unavailable; nothing is read or written then.
        LakeError: The landing folder or the lake is unavailable, or rows were erased during the ingestion.
    """
    keys = load_keys(settings.pseudonym_keys)
    landing, lake = Landing(settings.landing, keys), Lake(settings.lake)
    landing.require()
    listed = [(hour, landing.objects(hour)) for hour in hours]
    done = ingested_keys(lake, [each for _, objects in listed for each in objects])
    reports = []
    with progress("ingesting", sum(len(objects) for _, objects in listed) - len(done), "files") as advance:
        for hour, objects in listed:
            report = HourReport(hour=hour, files=len(objects))
            new = [each for each in objects if each.key not in done]
            report.known = len(objects) - len(new)
            if new:
                with tempfile.TemporaryDirectory(prefix=COPIES) as folder:
                    _Hour(lake, landing, keys, Path(folder), report).ingest(new, settings.bad_row_limit)
                advance(len(new))
            reports.append(report)
    _close_entries(lake, [each for _, objects in listed for each in objects])
    version = lake.open(RAW.name).version() if lake.exists(RAW.name) else None
    return IngestReport(hours=tuple(reports), raw_version=version)


class _Hour:
    """Ingestion of the new files of one hour."""

    def __init__(self, lake: Lake, landing: Landing, keys: PseudonymKeys, folder: Path, report: HourReport) -> None:
        self._lake = lake
        self._landing = landing
        self._keys = keys
        self._folder = folder
        self._report = report
        self._files: dict[str, FileContent] = {}
        """Files by key, without their rows, which are in `folder`."""
        self._same: set[str] = set()
        """Keys of the files that add no row to `raw`, because another file has their content. They are not committed,
        because the other file may be replaced."""
        self._changed: set[str] = set()
        """Keys of the files that were uploaded again before their rows were committed."""

    def ingest(self, objects: Sequence[Landed], limit: float) -> None:
        fences = self._lake.fences(QUARANTINE.name, RAW.name)
        for number, landed in enumerate(objects):
            self._read(number, landed)
        report = self._report
        report.rows = sum(file.rows for file in self._files.values())
        report.bad_rows = sum(file.bad_rows for file in self._files.values())
        report.unusable = sum(file.unusable for file in self._files.values())
        self._warn()
        keys = list(self._files)
        self._lake.commit_once(
            QUARANTINE.name, keys, self._quarantine_rows, metadata={"hour": report.hour}, fences=fences
        )
        if report.rows and report.bad_rows > limit * report.rows:
            report.failed = True
            _log.error(
                "%s: %d of %d rows are bad, more than %g %%; nothing was added to raw; see the table quarantine",
                *(report.hour, report.bad_rows, report.rows, 100 * limit),
            )
            return
        committed = self._lake.commit_once(
            RAW.name,
            keys,
            self._raw_rows,
            also={key: file.content_key for key, file in self._files.items() if not file.unusable},
            choose=self._chosen,
            replace=self._replaced,
            metadata={"hour": report.hour},
            fences=fences,
        )
        report.duplicates, report.changed = len(self._same), report.changed + len(self._changed)
        report.known += len(keys) - len({*committed, *self._same, *self._changed})
        report.ingested = sum(not self._files[key].unusable for key in committed)

    def _read(self, number: int, landed: Landed) -> None:
        copy = self._folder / f"{number}{Path(landed.name).suffix}"
        try:
            content = self._landing.fetch(landed, copy)
        except ChangedError:
            self._report.changed += 1
            _log.warning("%s changed while it was read; the next run reads it", landed.name)
            return
        file = read_landed(copy, landed, content, self._keys)
        copy.unlink()
        write_spool(self._place(landed.key), RAW.schema, file.raw.to_batches())
        self._files[landed.key] = FileContent(
            landed=landed,
            content=content,
            rows=file.rows,
            bad_rows=file.bad_rows,
            raw=RAW.schema.empty_table(),
            quarantine=file.quarantine,
            warnings=file.warnings,
        )

    def _warn(self) -> None:
        for file in self._files.values():
            texts = list(file.warnings)
            if file.unusable:
                texts.append(f"in quarantine: {file.quarantine.column('rule')[0]}")
            elif file.bad_rows:
                texts.append(f"bad rows in quarantine: {file.bad_rows:,} of {file.rows:,}")
            self._report.warnings += [f"{file.landed.name}: {text}" for text in texts]

    def _place(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('object:')}.parquet"

    def _quarantine_rows(self, new: Sequence[str], table: DeltaTable) -> pa.Table:
        """Rows for `quarantine`: faults, and files with the content of another file."""
        del table
        raw = self._lake.open(RAW.name) if self._lake.exists(RAW.name) else None
        duplicates = self._duplicates(new, raw)
        parts = [self._files[key].quarantine for key in new if key not in duplicates]
        for key in sorted(duplicates):
            file = self._files[key]
            parts.append(whole_file_in_quarantine(file.landed, file.content, DUPLICATE).quarantine)
            self._report.warnings.append(f"{file.landed.name}: {DUPLICATE}, adds no rows")
        return pa.concat_tables([QUARANTINE.schema.empty_table(), *parts])

    def _chosen(self, new: Sequence[str], table: DeltaTable) -> list[str]:
        """Return the keys of the files that are committed.

        A file that was uploaded again is left out: another process may have committed its newer content before the
        table was opened. If it does so later, the commit fails and this is asked again.
        """
        self._changed = {key for key in new if not self._landing.is_current(self._files[key].landed)}
        current = [key for key in new if key not in self._changed]
        self._same = self._duplicates(current, table)
        return [key for key in current if key not in self._same]

    def _raw_rows(self, new: Sequence[str], table: DeltaTable) -> pa.RecordBatchReader:
        del table
        return read_spools([self._place(key) for key in new if not self._files[key].unusable], RAW.schema)

    def _duplicates(self, new: Sequence[str], raw: DeltaTable | None) -> set[str]:
        """Return the keys of the files whose content another object has, in `raw` or earlier in this run.

        An object whose rows this run replaces does not count. A file of an object with rows in `raw` is no duplicate,
        because it replaces them, which may be those of another content.
        """
        found, seen = set(), set()
        usable = [key for key in new if not self._files[key].unusable]
        names = {self._files[key].landed.name for key in usable}
        replacing = self._with_rows(names, raw)
        for key in sorted(usable, key=lambda key: self._files[key].landed.name not in replacing):
            file = self._files[key]
            known = raw is not None and raw.transaction_version(file.content_key) is not None
            if file.landed.name not in replacing and (
                file.content in seen or (known and self._is_held(file, raw, names))
            ):
                found.add(key)
            seen.add(file.content)
        return found

    def _with_rows(self, names: Collection[str], raw: DeltaTable | None) -> set[str]:
        """Return the names of the objects of this hour that have rows in `raw`."""
        if raw is None or not names:
            return set()
        earlier = (ds.field("hour") == self._report.hour) & ds.field("object").isin(pa.array(sorted(names)))
        found: set[str] = set()
        for batch in raw.to_pyarrow_dataset().to_batches(columns=["object"], filter=earlier):
            found.update(batch.column(0).unique().to_pylist())
        return found

    @staticmethod
    def _is_held(file: FileContent, raw: DeltaTable | None, replaced: Collection[str]) -> bool:
        """Return whether rows in `raw` of an object that is not replaced have the content of a file."""
        assert raw is not None
        same = (ds.field("content") == file.content) & ~ds.field("object").isin(pa.array(sorted(replaced), pa.string()))
        return bool(raw.to_pyarrow_dataset().head(1, columns=["object"], filter=same).num_rows)

    def _replaced(self, new: Sequence[str], table: DeltaTable) -> str | None:
        """Return the predicate of the rows of earlier contents of the same objects, or None without such rows.

        An unusable file does not replace the rows of an earlier one.
        """
        names = {self._files[key].landed.name for key in new if not self._files[key].unusable}
        if not self._with_rows(names, table):
            return None
        # New objects are listed too, because every written row must satisfy the condition.
        listed = ", ".join(sql_text(name) for name in sorted(names))
        return f"hour = {sql_text(self._report.hour)} AND object IN ({listed})"


def _close_entries(lake: Lake, objects: Sequence[Landed]) -> None:
    """Close the entries of `quarantine` that belong to earlier contents of ingested files, or to former duplicates.

    It looks at all files and not only at those of this run, because an earlier run may have been killed before.
    """
    if not objects or not lake.exists(QUARANTINE.name):
        return
    hours = pa.array(sorted({each.hour for each in objects}))
    with lake.errors(QUARANTINE.name):
        entries = (
            lake.open(QUARANTINE.name)
            .to_pyarrow_dataset()
            .to_table(
                columns=["object", "etag", "rule"], filter=ds.field("hour").isin(hours) & (ds.field("status") == OPEN)
            )
        )
    by_name = {each.name: each for each in objects}
    opened = {(row["object"], row["etag"], row["rule"]) for row in entries.to_pylist() if row["object"] in by_name}
    stale = {(name, etag, rule) for name, etag, rule in opened if etag != by_name[name].etag or rule == DUPLICATE}
    ingested = known_keys(lake, [by_name[name] for name in {name for name, _, _ in stale}])
    for name in sorted({name for name, _, _ in stale if by_name[name].key in ingested}):
        landed = by_name[name]
        lake.update(
            QUARANTINE.name,
            {"status": SUPERSEDED},
            f"hour = {sql_text(landed.hour)} AND object = {sql_text(name)} AND status = {sql_text(OPEN)} "
            f"AND (etag <> {sql_text(landed.etag)} OR rule = {sql_text(DUPLICATE)})",
        )
