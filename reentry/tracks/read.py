"""Reading a file of tracks: opening it validates all rows, then its tracks can be iterated any number of times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reentry.errors import TrackFileError
from reentry.runtime.progress import progress
from reentry.tracks.cells import Records, parse
from reentry.tracks.formats import check_columns
from reentry.tracks.repair import RepairConfig, Unrepairable, repair_track
from reentry.tracks.report import Fault, ReadReport, SetAside
from reentry.tracks.sources import Source, open_source
from reentry.tracks.store import DiskStore, MemoryStore
from reentry.tracks.track import Track

IN_MEMORY_BYTES: Final = 128 * 2**20
"""Size above which the rows of a file are kept in a temporary folder instead of in memory."""


def read_tracks(
    path: Path,
    *,
    labelled: bool = False,
    config: RepairConfig | None = None,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> TrackFile:
    """Read a CSV or Parquet file of tracks: validate it, repair its tracks, and set aside those beyond repair.

    The columns are those of `schema.TRACK_COLUMNS`, in any order; other columns are ignored. The report is complete
    when this function returns. Memory use is bounded by the larger of `in_memory_bytes` and the size of 256 tracks.

    Args:
        path: Path of the file, whose suffix selects the format.
        labelled: Whether the file must have the column `reentry_phase` with a label in every row.
        config: Limits of the repairs.
        in_memory_bytes: Size of the file above which its rows are kept in a temporary folder while it is open.

    Raises:
        TrackFileError: The file as a whole cannot be used. A bad track is listed in the report instead.

    Example:
        with read_tracks(Path("train.csv"), labelled=True) as file:
            for track in file:
                print(track.track_id, len(track))
    """
    source = open_source(path)
    if labelled:
        check_columns(path, source.columns, labelled=True)
    return TrackFile(source, labelled=labelled, config=config or RepairConfig(), in_memory_bytes=in_memory_bytes)


class TrackFile:
    """The good tracks of a file, in order of first appearance. Close it after use, or use `with`."""

    def __init__(self, source: Source, *, labelled: bool, config: RepairConfig, in_memory_bytes: int) -> None:
        self.path = source.path
        self.report = ReadReport(path=source.path)
        self._source = source
        self._labelled = labelled
        self._config = config
        self._set_aside: set[int] = set()
        large = source.size > in_memory_bytes
        with self._disk_errors():
            self._rows: DiskStore | MemoryStore = DiskStore() if large else MemoryStore()
        self._tracks: list[Track] | None = None if large else []
        try:
            self._read(show_progress=large)
        except BaseException:
            self.close()
            raise

    @property
    def row_count(self) -> int:
        """Number of rows in the file."""
        return self.report.rows

    @property
    def fingerprint(self) -> str:
        """`fingerprint` of the file that was read."""
        return self._source.fingerprint

    @property
    def track_count(self) -> int:
        """Number of good tracks."""
        return self.report.tracks

    @property
    def in_memory(self) -> bool:
        """Whether all tracks are held in memory; otherwise each one is read from disk during iteration."""
        return self._tracks is not None

    def close(self) -> None:
        """Delete the rows on disk."""
        self._rows.close()

    def __enter__(self) -> TrackFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.track_count

    def __iter__(self) -> Iterator[Track]:
        if self._tracks is not None:
            yield from self._tracks
            return
        for records in self._rows.tracks():
            if int(records["track_id"][0]) not in self._set_aside:
                yield repair_track(records, self._config).track

    def _read(self, *, show_progress: bool) -> None:
        """Validate every cell, then every track."""
        faults = _Faults()
        without_track: list[npt.NDArray[np.int64]] = []
        with progress("reading", None, "rows") if show_progress else nullcontext(_ignore) as advance:
            for chunk in self._source.chunks():
                records, rows, table = parse(chunk, labelled=self._labelled)
                faults.add(table, records)
                without_track.append(rows)
                with self._disk_errors():
                    self._rows.append(records)
                self.report.rows += chunk.rows
                advance(chunk.rows)
        if self.report.rows == 0:
            raise TrackFileError("no rows", where=str(self.path), expected="rows of tracks below the header")
        rows = np.concatenate(without_track)
        if len(rows):
            self.report.faults += faults.of_track(None)
            self.report.set_aside.append(SetAside(track_id=None, reason="unreadable track_id", rows=rows))
        with progress("checking tracks", None, "tracks") if show_progress else nullcontext(_ignore) as advance:
            for records in self._rows.tracks():
                self._check(records, faults.of_track(int(records["track_id"][0])))
                advance(1)
        if self._tracks is not None:
            self._rows.close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Convert an OSError of the temporary folder into a TrackFileError."""
        try:
            yield
        except OSError as error:
            raise TrackFileError(
                f"cannot write rows to the temporary folder ({error.strerror})",
                where=str(self.path),
                fix="set TMPDIR to a folder with room for about the size of the file",
            ) from error

    def _check(self, records: Records, faults: list[Fault]) -> None:
        """Repair one track, or set it aside, and add it to the report."""
        repaired = None
        if not faults:
            try:
                repaired = repair_track(records, self._config)
            except Unrepairable as error:
                faults = error.faults
        if repaired is None:
            track_id = int(records["track_id"][0])
            self._set_aside.add(track_id)
            self.report.faults += faults
            reason = "; ".join(map(str, faults))
            self.report.set_aside.append(SetAside(track_id=track_id, reason=reason, rows=records["row"].copy()))
            return
        self.report.tracks += 1
        if repaired.repairs or repaired.notes:
            self.report.repairs += repaired.repairs
            self.report.notes += repaired.notes
        if self._tracks is not None:
            self._tracks.append(repaired.track)


class _Faults:
    """Faults of all chunks, merged into one fault per track, column and problem."""

    def __init__(self) -> None:
        self._by_track: dict[int | None, dict[tuple[str, str], Fault]] = {}

    def add(self, table: pd.DataFrame, records: Records) -> None:
        """Add the faults of a chunk, given its rows with a readable track id."""
        if table.empty:
            return
        position = np.searchsorted(records["row"], table["row"].to_numpy())
        found = np.append(records["row"], -1)[position] == table["row"].to_numpy()
        track_id = np.where(found, np.append(records["track_id"], 0)[position], 0)
        groups = table.assign(has_track=found, track_id=track_id).groupby(
            ["has_track", "track_id", "column", "problem"], sort=False, as_index=False
        )
        for group in groups.agg(row=("row", "first"), got=("got", "first"), count=("row", "size")).to_dict("records"):
            track = int(group["track_id"]) if group["has_track"] else None
            column, problem, count = str(group["column"]), str(group["problem"]), int(group["count"])
            faults = self._by_track.setdefault(track, {})
            known = faults.get((column, problem))
            faults[column, problem] = (
                replace(known, count=known.count + count)
                if known
                else Fault(
                    row=int(group["row"]),
                    column=column or None,
                    track_id=track,
                    problem=problem,
                    got=str(group["got"]),
                    count=count,
                )
            )

    def of_track(self, track_id: int | None) -> list[Fault]:
        """Return the faults of a track, or, for None, of the rows whose track id is unreadable."""
        return list(self._by_track.get(track_id, {}).values())


def _ignore(_amount: int) -> None:
    """Discard progress."""
