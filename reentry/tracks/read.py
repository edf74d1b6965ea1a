"""A file of tracks: validated as a whole when opened, then given one track after the other, as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reentry.errors import TrackFileError
from reentry.runtime.progress import progress
from reentry.tracks.cells import Records, parse
from reentry.tracks.columns import check_columns
from reentry.tracks.repair import RepairConfig, Unrepairable, repair_track
from reentry.tracks.report import Fault, ReadReport, SetAside
from reentry.tracks.sources import Source, open_source
from reentry.tracks.store import DiskStore, MemoryStore, RowStore
from reentry.tracks.track import Track

IN_MEMORY_BYTES: Final = 128 * 2**20
"""The rows of a larger file are spread over a temporary folder."""


def read_tracks(
    path: Path,
    *,
    labelled: bool = False,
    config: RepairConfig | None = None,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> TrackFile:
    """Read a file of tracks, CSV or Parquet by its suffix; validate it, repair what can be, set the rest aside.

    The columns are those of `schema.TRACK_COLUMNS`, in any order; others are left alone. The report is complete when
    this returns. Memory is bounded by the larger of `in_memory_bytes` and some 256 tracks.

    Args:
        path: the file.
        labelled: whether it must have `reentry_phase`, and each track a label at every row.
        config: how far repairs may go.
        in_memory_bytes: size of the file from which on its rows lie in a temporary folder while it is open.

    Raises:
        TrackFileError: the file as a whole cannot be used; a bad track alone is in the report.

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
    """The good tracks of a file, in the order in which they first appear; close it, or use `with`."""

    def __init__(self, source: Source, *, labelled: bool, config: RepairConfig, in_memory_bytes: int) -> None:
        self.path = source.path
        self.report = ReadReport(path=source.path)
        self._source = source
        self._labelled = labelled
        self._config = config
        self._set_aside: set[int] = set()
        large = source.size > in_memory_bytes
        with self._room_for_rows():
            self._rows: RowStore = DiskStore() if large else MemoryStore()
        self._tracks: list[Track] | None = None if large else []
        try:
            self._read(show_progress=large)
        except BaseException:
            self.close()
            raise

    @property
    def row_count(self) -> int:
        """Rows of the file."""
        return self.report.rows

    @property
    def track_count(self) -> int:
        """Tracks that go on."""
        return self.report.tracks

    @property
    def in_memory(self) -> bool:
        """Whether the tracks are in memory; else each is read from disk when its turn comes."""
        return self._tracks is not None

    def close(self) -> None:
        """Give up the rows on disk."""
        self._rows.close()

    def __enter__(self) -> TrackFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Check every cell, then every track."""
        faults = _Faults()
        nameless: list[npt.NDArray[np.int64]] = []
        with _shown("reading", None, "rows", show_progress) as advance:
            for chunk in self._source.chunks():
                records, no_track, found = parse(chunk, labelled=self._labelled)
                faults.add(found, records)
                nameless.append(no_track)
                with self._room_for_rows():
                    self._rows.append(records)
                self.report.rows += len(chunk)
                advance(len(chunk))
        if self.report.rows == 0:
            raise TrackFileError("no rows", where=str(self.path), expected="rows of tracks below the header")
        rows = np.concatenate(nameless)
        if len(rows):
            self.report.faults += faults.of(None)
            self.report.set_aside.append(SetAside(track_id=None, reason="no track: track_id unreadable", rows=rows))
        with _shown("checking tracks", None, "tracks", show_progress) as advance:
            for records in self._rows.tracks():
                self._check(records, faults.of(int(records["track_id"][0])))
                advance(1)
        if self._tracks is not None:
            self._rows.close()

    @contextmanager
    def _room_for_rows(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrackFileError(
                f"the temporary folder takes no more rows ({error.strerror})",
                where=str(self.path),
                fix="set TMPDIR to a folder with room for about the size of the file",
            ) from error

    def _check(self, records: Records, faults: list[Fault]) -> None:
        """Take one track's rows into the report, and where tracks are kept, keep it."""
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
        self.report.repairs += repaired.repairs
        self.report.notes += repaired.notes
        if self._tracks is not None:
            self._tracks.append(repaired.track)


class _Faults:
    """Faulty cells, put together over the chunks: one fault for each track, column and problem."""

    def __init__(self) -> None:
        self._by_track: dict[int | None, dict[tuple[str, str], Fault]] = {}

    def add(self, table: pd.DataFrame, records: Records) -> None:
        """Take the faults of a chunk with those of its rows that name a track."""
        if table.empty:
            return
        position = np.searchsorted(records["row"], table["row"].to_numpy())
        found = np.append(records["row"], -1)[position] == table["row"].to_numpy()
        track_id = np.where(found, np.append(records["track_id"], 0)[position], 0)
        groups = table.assign(named=found, track_id=track_id).groupby(
            ["named", "track_id", "column", "problem"], sort=False, as_index=False
        )
        for group in groups.agg(row=("row", "first"), got=("got", "first"), count=("row", "size")).to_dict("records"):
            whose = int(group["track_id"]) if group["named"] else None
            known = self._by_track.setdefault(whose, {})
            key = (str(group["column"]), str(group["problem"]))
            before = known.get(key)
            known[key] = Fault(
                row=before.row if before else int(group["row"]),
                column=key[0] or None,
                track_id=whose,
                problem=key[1],
                got=before.got if before else str(group["got"]),
                count=int(group["count"]) + (before.count if before else 0),
            )

    def of(self, track_id: int | None) -> list[Fault]:
        """The faults of a track; of None, those of rows that name no track."""
        return list(self._by_track.get(track_id, {}).values())


@contextmanager
def _shown(task: str, total: int | None, unit: str, show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _amount: None
        return
    with progress(task, total, unit) as advance:
        yield advance
