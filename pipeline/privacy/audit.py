"""Audit of what is stored: plain ids and e-mail addresses where none may be, keys of the rows, overdue landing files.

A finding names the place and never the value.
"""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.ingest import COPIES
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage, StoredFile, staged_files
from pipeline.lake.tables import KEY_ID, OPERATOR_ID, TABLES
from pipeline.privacy.data_files import TableFiles, data_files, read_batches, require_places
from pipeline.privacy.id_search import IdSearch
from pipeline.privacy.keys import PseudonymKeys, load_keys
from pipeline.privacy.landed_ids import all_ids
from pipeline.privacy.runs import run_texts
from pipeline.privacy.scrub import COORDINATE_STEP, masked
from pipeline.settings import PipelineSettings
from reentry.errors import InputError
from reentry.schema import SENSOR_ID

_SMALLEST_PSEUDONYM: Final = 2**32
"""A pseudonym is smaller with a probability of 2**-31, so a smaller number is taken for a plain id."""
_EMAIL: Final = re.compile(rb"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}")
_COORDINATE: Final = re.compile(rb"(?:latitude|longitude)[\"']?\s*[=:]\s*-?(\d+\.\d+)", re.IGNORECASE)
_LEFT_OVER: Final = dt.timedelta(hours=1)
"""Age from which copies of landing files and unfinished data files are taken for those of killed processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault that an audit has found, such as a plain id in a table."""

    place: str
    problem: str


@dataclass(slots=True, kw_only=True)
class AuditReport:
    """Result of an audit."""

    ids: int
    """Number of plain ids that were searched."""
    searched: Counter[str] = field(default_factory=Counter)
    """Number of searched files or texts by kind of place."""
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of rows of the newest version of each table by key id."""
    current_key: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something was found."""
        return bool(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        return asdict(self) | {"failed": self.failed}

    def summary(self) -> str:
        """Return the result as text."""
        searched = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.searched.items())) or "nothing"
        lines = [f"searched for {self.ids:,} plain ids and for e-mail addresses in: {searched}"]
        for table, keys in self.rows.items():
            counts = ", ".join(f"{key} {count:,}" for key, count in sorted(keys.items()))
            older = "; run `reentry privacy rekey`" if set(keys) - {self.current_key} else ""
            lines.append(f"rows of {table} by key: {counts}{older}")
        lines += [f"FOUND {each.place}: {each.problem}" for each in self.findings]
        return "\n".join([*lines, f"findings: {len(self.findings)}"])


def audit(
    settings: PipelineSettings,
    *,
    search: Path | None = None,
    logs: Sequence[Path] = (),
    now: dt.datetime | None = None,
) -> AuditReport:
    """Search tables, their earlier versions, training runs and log files.

    Args:
        settings: Locations, keys and retention.
        search: File with one plain id on each line; None searches the ids of the landing files.
        logs: Log files to search.
        now: Time from which the age of files is counted.

    Raises:
        InputError: A file cannot be read, or the file of ids is empty.
        ConfigError: The keys or the store of runs are unavailable.
        LakeError: The lake or the landing folder does not exist or is unavailable.
    """
    keys = load_keys(settings.pseudonym_keys)
    landing = Storage(settings.landing)
    require_places(Lake(settings.lake), landing)
    ids = all_ids(landing) if search is None else set(_read(search).decode(errors="replace").split("\n"))
    ids = {name.strip() for name in ids} - {""}
    if search is not None and not ids:
        raise InputError("the file has no ids to search", where=str(search), expected="one plain id on each line")
    found = _Audit(keys, IdSearch(ids), AuditReport(ids=len(ids), current_key=keys.current))
    now = now or dt.datetime.now(dt.UTC)
    found.lake(Storage(settings.lake), now)
    for place, text in run_texts():
        found.text("training runs", place, text, emails=_is_text(text))
    for log in logs:
        content = _read(log)
        found.text("log files", str(log), content, emails=True)
        found.coordinates(str(log), content)
    found.retention(landing.files(), settings.landing_retention_days, now)
    found.copies(Path(tempfile.gettempdir()).glob(f"{COPIES}*"), now)
    return found.report


class _Audit:
    """One audit."""

    def __init__(self, keys: PseudonymKeys, search: IdSearch, report: AuditReport) -> None:
        self.report = report
        self._keys = keys
        self._search = search

    def lake(self, storage: Storage, now: dt.datetime) -> None:
        """Search all files of all tables."""
        for table in TABLES:
            log = TableFiles(storage, table)
            data, staged = data_files(storage, table), staged_files(storage, table)
            self._left_over(table, staged, now)
            for file in data:
                self.report.searched["data files"] += 1
                self._path(table, file)
                for rows in read_batches(storage, file):
                    self._rows(f"{table}: {self._shown(file)}", rows)
                    if log.is_live(file) and KEY_ID in rows.column_names:
                        self._count(table, rows)
            for file, content in _others(storage, table, {*data, *staged}):
                # A checkpoint of the log is compressed, so its bytes look like an e-mail address by chance.
                emails = not file.path.endswith(".parquet")
                self.text("log files of tables", f"{table}: {self._shown(file)}", content, emails=emails)

    def text(self, kind: str, place: str, text: bytes, *, emails: bool) -> None:
        """Search a text, or a file of any kind, for plain ids, and for e-mail addresses too if `emails` is set."""
        self.report.searched[kind] += 1
        count = self._search.in_text(text)
        if count:
            self._add(place, f"plain ids: {count:,}")
        if emails and _has_email(text):
            self._add(place, "an e-mail address")

    def coordinates(self, place: str, text: bytes) -> None:
        """Search a log for coordinates that were not rounded."""
        exact = sum(float(value) % COORDINATE_STEP != 0 for value in _COORDINATE.findall(text))
        if exact:
            self._add(place, f"coordinates that are not rounded to {COORDINATE_STEP} degrees: {exact:,}")

    def retention(self, files: Iterable[StoredFile], days: int, now: dt.datetime) -> None:
        """Check the age of landing files."""
        old = [file for file in files if now - file.modified > dt.timedelta(days=days)]
        self._add("landing folder", f"files older than {days} days: {len(old):,}") if old else None

    def copies(self, folders: Iterable[Path], now: dt.datetime) -> None:
        """Check for copies of landing files that a killed ingestion has left."""
        for folder in folders:
            with suppress(FileNotFoundError):  # the ingestion has ended since the folder was listed
                if now - dt.datetime.fromtimestamp(folder.stat().st_mtime, tz=dt.UTC) > _LEFT_OVER:
                    problem = "copies of landing files that a killed ingestion has left; delete the folder"
                    self._add(str(folder), problem)

    def _left_over(self, table: str, files: Iterable[StoredFile], now: dt.datetime) -> None:
        count = sum(now - file.modified > _LEFT_OVER for file in files)
        if count:
            problem = f"unfinished data files of killed writers, which cannot be searched: {count:,}"
            self._add(table, f"{problem}; run `reentry lake maintain`")

    def _rows(self, place: str, rows: pa.Table) -> None:
        for column, count in self._search.in_table(rows).items():
            self._add(f"{place}, column {column}", f"plain ids: {count:,}")
        for column in rows.column_names:
            if pa.types.is_string(rows[column].type) and any(
                _has_email(text.encode()) for text in pc.unique(rows[column]).to_pylist() if text is not None
            ):
                self._add(f"{place}, column {column}", "an e-mail address")
        for column in (SENSOR_ID.name, OPERATOR_ID):
            if column in rows.column_names:
                small = pc.sum(pc.less(rows[column], _SMALLEST_PSEUDONYM)).as_py()
                if small:
                    self._add(f"{place}, column {column}", f"numbers that look like plain ids: {small:,}")
        if KEY_ID in rows.column_names:
            unknown = ~pc.is_in(rows[KEY_ID], pa.array(self._keys.ids)).to_numpy()
            if unknown.any():
                self._add(place, f"rows without a known key: {np.count_nonzero(unknown):,}")

    def _count(self, table: str, rows: pa.Table) -> None:
        counts = self.report.rows.setdefault(table, {})
        for each in pc.value_counts(rows[KEY_ID].combine_chunks()).to_pylist():
            counts[str(each["values"])] = counts.get(str(each["values"]), 0) + each["counts"]

    def _path(self, table: str, file: StoredFile) -> None:
        if self._search.in_text(file.path.encode()):
            self._add(f"{table}: {self._shown(file)}", "a plain id in the name of a file")

    def _shown(self, file: StoredFile) -> str:
        return masked(str(file)) if self._search.in_text(file.path.encode()) else str(file)

    def _add(self, place: str, problem: str) -> None:
        self.report.findings.append(Finding(place=place, problem=problem))


def _others(storage: Storage, table: str, data: set[StoredFile]) -> Iterator[tuple[StoredFile, bytes]]:
    """Yield the files of a table that hold no rows, such as its log, unless they are removed meanwhile."""
    for file in storage.files(table):
        if file not in data:
            with suppress(FileNotFoundError), storage.open(file) as content:
                yield file, content.read()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("the file cannot be read", where=str(path), got=error.strerror) from error


def _has_email(text: bytes) -> bool:
    """Return whether a text has an e-mail address that is not masked."""
    return any(each.strip(b"x9.@+_-") for each in _EMAIL.findall(text))


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
