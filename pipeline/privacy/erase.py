"""Erasure of a sensor, an operator or a track from the lake and the landing folder, with proof.

The order of the steps lets a killed erasure be repeated: predictions, which name no sensor, are erased first and the
rows of `raw`, from which their tracks are known, last; runs are marked before the files of their versions are deleted.

Writers need not be stopped. A writer in flight may have read rows before they were erased. When all rows and files are
gone, every table gets a fence (see `pipeline.lake.lake`), after which no such writer can commit, and only then is
everything searched again.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.known import ingested_keys
from pipeline.ingest.landing import Landing
from pipeline.lake.lake import Lake
from pipeline.lake.storage import Storage, StoredFile, staged_files
from pipeline.lake.tables import CLEAN, FEATURES_TABLE, PREDICTIONS, QUARANTINE, RAW
from pipeline.privacy.data_files import TableFiles, data_files, read_batches, remove_files, require_places
from pipeline.privacy.keys import load_keys
from pipeline.privacy.landed_ids import LandedSubject, files_about
from pipeline.privacy.partitions import change_rows
from pipeline.privacy.runs import mark_runs
from pipeline.privacy.subject import COLUMNS, TRACK, Mask, Subject
from pipeline.settings import PipelineSettings
from reentry.errors import LakeError

_log = logging.getLogger(__name__)

_ORDER: Final = (PREDICTIONS.name, QUARANTINE.name, FEATURES_TABLE.name, CLEAN.name, RAW.name)
_READ: Final = (*COLUMNS, "object", "row")


@dataclass(slots=True, kw_only=True)
class ErasureReport:
    """Result of an erasure, without the id and its pseudonyms."""

    erasure_id: str
    dry_run: bool
    time: str
    """Time of the erasure in UTC, ISO 8601."""
    rows: dict[str, int] = field(default_factory=dict)
    """Number of rows removed from the newest version of each table."""
    files: dict[str, int] = field(default_factory=dict)
    """Number of deleted data files of earlier versions of each table, earlier versions of objects included."""
    versions: dict[str, list[int]] = field(default_factory=dict)
    """Versions of each table that cannot be read any more."""
    landing_files: int = 0
    """Number of deleted landing files, earlier versions of objects included."""
    runs: list[str] = field(default_factory=list)
    """Ids of the training runs that are marked as no longer reproducible."""
    tracks: list[int] = field(default_factory=list)
    """Tracks with rows of a sensor or operator, in a dry run only: the record of an erasure does not name them."""

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON output."""
        return asdict(self)

    def summary(self) -> str:
        """Return the result as text."""
        done = "would be" if self.dry_run else "were"
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items()) or "none"
        files = ", ".join(f"{name} {count:,}" for name, count in self.files.items()) or "none"
        versions = [f"lake:{table}@{part}" for table, numbers in self.versions.items() for part in _ranges(numbers)]
        return "\n".join(
            (
                f"{self.erasure_id}",
                f"rows that {done} removed: {rows}",
                f"files of earlier versions that {done} deleted: {files}",
                f"landing files that {done} deleted: {self.landing_files}",
                f"versions that {done} made unreadable: {', '.join(versions) or 'none'}",
                f"training runs that {done} marked as not reproducible: {', '.join(self.runs) or 'none'}",
            )
        )


def erase(
    settings: PipelineSettings, kind: str, name: str, *, dry_run: bool = False, delete_waiting: bool = False
) -> ErasureReport:
    """Erase a subject and prove it by searching again.

    Args:
        settings: Locations and keys.
        kind: `sensor`, `operator` or `track`.
        name: The id as it stands in landing files.
        dry_run: Whether to report only what would be erased.
        delete_waiting: Whether to delete landing files about the subject whose rows are not in `raw` yet.

    Raises:
        InputError: The id is invalid.
        ConfigError: The keys or the store of runs are unavailable.
        LakeError: The lake or the landing folder does not exist or is unavailable, landing files wait for ingestion,
            rows about the subject were added meanwhile, or a writer is at work whose files cannot be searched yet.
    """
    subject = Subject.of(kind, name, load_keys(settings.pseudonym_keys))
    erasure = _Erasure(settings, subject)
    erasure.require_places()
    report = ErasureReport(
        erasure_id=subject.erasure_id, dry_run=dry_run, time=dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    )
    landed = erasure.scan()
    if not delete_waiting:
        erasure.require_ingested(landed)
    if not dry_run:
        report.rows = erasure.rewrite(report.erasure_id)
    doomed = erasure.doomed(report)
    report.runs = mark_runs(
        Lake(settings.lake),
        {table: set(numbers) for table, numbers in report.versions.items()},
        report.erasure_id,
        report.time,
        dry_run=dry_run,
    )
    report.landing_files = len(landed)
    if dry_run and kind != TRACK:
        report.tracks = erasure.tracks()
    if not dry_run:
        erasure.delete(doomed, landed)
        erasure.prove()
    return report


class _Erasure:
    """One erasure."""

    def __init__(self, settings: PipelineSettings, subject: Subject) -> None:
        self._subject = subject
        self._lake = Lake(settings.lake)
        self._files = Storage(self._lake.location)
        self._landing_place = settings.landing
        self._landing = Storage(settings.landing)
        self._tracks: set[int] = {int(subject.name)} if subject.kind == TRACK else set()
        self._objects: set[str] = set()
        """Landing files, by path, that the subject has rows in."""

    def require_places(self) -> None:
        """Check that the places of the subject's rows exist."""
        require_places(self._lake, self._landing)

    def scan(self) -> list[LandedSubject]:
        """Find the tracks and landing files of the subject, and return the landing files that still exist."""
        for table in _ORDER:
            for file in data_files(self._files, table):
                for rows in read_batches(self._files, file, _READ):
                    self._note(rows)
        landed = files_about(self._subject, self._landing)
        for each in landed:
            self._tracks |= each.tracks
            self._objects.add(each.file.path)
        return landed

    def tracks(self) -> list[int]:
        """Return the tracks of the subject that `scan` has found, in ascending order."""
        return sorted(self._tracks)

    def require_ingested(self, landed: list[LandedSubject]) -> None:
        """Check that the rows of other subjects in landing files, which will be deleted, are in the lake."""
        current = {each.file.path for each in landed if each.file.is_current}
        place = Landing(self._landing_place, self._subject.keys)
        found = [each for hour in {path.split("/")[0] for path in current} for each in place.objects(hour)]
        done = ingested_keys(self._lake, found)
        waiting = len(current - {each.name for each in found if each.key in done})
        if waiting:
            raise LakeError(
                f"{waiting} landing files about the subject are not in the table raw yet, and would be deleted",
                where=self._landing_place,
                fix="run `reentry ingest` for their hours first, or delete them with --delete-waiting",
            )

    def rewrite(self, erasure_id: str) -> dict[str, int]:
        """Remove the rows from the newest version of each table."""
        counts = {}
        for table in _ORDER:
            counts[table] = change_rows(
                self._lake, table, _READ, partial(self._erased, table), _without, {"erasure": erasure_id}
            )
            _log.info("%s: removed %d rows of the newest version", table, counts[table])
        return {table: count for table, count in counts.items() if count}

    def doomed(self, report: ErasureReport) -> dict[str, list[StoredFile]]:
        """Return the files of each table that hold rows of the subject or cannot be searched, and report them.

        Before the rewriting, the rows of the newest version are reported too.

        Files of killed writers and of writers at work are among them.

        Raises:
            LakeError: Rows were added meanwhile.
        """
        doomed: dict[str, list[StoredFile]] = {}
        for table in _ORDER:
            rows: Counter[str] = Counter()
            found, versions = [], set()
            hits = list(self._hits(table))
            log = TableFiles(self._files, table)
            for file, count in hits:
                versions |= log.versions(file)
                if log.is_live(file):
                    rows[table] += count
                else:
                    found.append(file)
            if report.dry_run and rows[table]:
                report.rows[table] = rows[table]
            elif rows[table]:
                raise _added_meanwhile(table)
            found += staged_files(self._files, table)
            if found:
                doomed[table] = found
                report.files[table] = len(found)
            if versions:
                report.versions[table] = sorted(versions)
        return doomed

    def delete(self, doomed: dict[str, list[StoredFile]], landed: list[LandedSubject]) -> None:
        """Delete files for good, those of `raw` and the landing folder last."""
        for table, files in doomed.items():
            remove_files(self._lake, self._files, table, files)
            _log.info("%s: deleted %d files of earlier versions", table, len(files))
        for each in landed:
            self._landing.delete(each.file)

    def prove(self) -> None:
        """Stop the commits of writers that may have read erased rows, and search everything again.

        Raises:
            LakeError: Something is left, because another process has added it meanwhile, or is about to.
        """
        for table in _ORDER:
            self._lake.fence(table)
        for table in _ORDER:
            if any(True for _ in self._hits(table)):
                raise _added_meanwhile(table)
            if staged_files(self._files, table):
                raise LakeError(
                    "a writer is at work, whose unfinished files cannot be searched",
                    where=self._lake.uri(table),
                    fix="run the same command again; it deletes what a killed writer has left",
                )
        if files_about(self._subject, self._landing):
            raise _added_meanwhile("the landing folder")

    def _hits(self, table: str) -> Iterator[tuple[StoredFile, int]]:
        for file in data_files(self._files, table):
            batches = read_batches(self._files, file, _READ)
            count = sum(int(np.count_nonzero(self._erased(table, rows))) for rows in batches)
            if count:
                yield file, count

    def _own(self, rows: pa.Table) -> pa.Table:
        return rows.filter(pa.array(self._subject.direct_rows(rows)))

    def _note(self, rows: pa.Table) -> None:
        own = self._own(rows)
        self._tracks |= _tracks_of(own)
        if "object" in own.column_names:
            self._objects.update(pc.unique(own["object"]).to_pylist())

    def _erased(self, table: str, rows: pa.Table) -> Mask:
        """Return which rows are erased, (N,).

        Raises:
            LakeError: The subject has a track that `scan` did not know, so that some of its rows were not looked for.
        """
        if _tracks_of(self._own(rows)) - self._tracks:
            raise _added_meanwhile(table)
        found = self._subject.rows(table, rows, self._tracks)
        if table == QUARANTINE.name:
            # A row without a readable track id cannot be told from the subject's in the same file.
            unknown = pc.and_(pc.is_null(rows["track_id"]), pc.is_valid(rows["row"]))
            found |= pc.and_(unknown, pc.is_in(rows["object"], pa.array(sorted(self._objects), pa.string()))).to_numpy()
        return found


def _ranges(numbers: list[int]) -> list[str]:
    """Return ascending numbers as texts such as 3 and 7-9."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return [f"{start}-{end}" if start < end else f"{start}" for start, end in zip(starts, ends, strict=True)]


def _tracks_of(rows: pa.Table) -> set[int]:
    return set(pc.unique(rows["track_id"]).to_pylist()) if rows.num_rows else set()


def _without(rows: pa.Table, erased: Mask) -> pa.Table:
    return rows.filter(pa.array(~erased))


def _added_meanwhile(place: str) -> LakeError:
    return LakeError(
        f"rows about the subject were added to {place} during the erasure",
        fix="run the same command again; stop ingestion meanwhile if this repeats",
    )
