"""Stores that collect the rows of a file and return them grouped by track, in memory or on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.tracks.cells import RECORD, Records

TRACKS_PER_PART: Final = 256
"""Number of tracks that are read back from disk at a time."""


class MemoryStore:
    """Rows in memory."""

    def __init__(self) -> None:
        self._chunks: list[Records] = []

    def append(self, records: Records) -> None:
        """Add the next chunk of rows, in file order."""
        self._chunks.append(records)

    def tracks(self) -> Iterator[Records]:
        """Yield the rows of each track in file order; the tracks come in order of first appearance."""
        if any(map(len, self._chunks)):
            yield from _split(self._chunks[0] if len(self._chunks) == 1 else np.concatenate(self._chunks))

    def close(self) -> None:
        """Release the rows."""
        self._chunks.clear()


class DiskStore:
    """Rows in an unnamed temporary file (in TMPDIR), which the system removes when the process ends for any reason.

    The tracks are numbered by first appearance and grouped into parts of `TRACKS_PER_PART` tracks. Each appended chunk
    adds one contiguous piece of the file to every part that it has rows of.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        self._ordinals: dict[int, int] = {}
        self._pieces: dict[int, list[tuple[int, int]]] = {}
        """Offset and size, in bytes, of the pieces of each part."""

    def append(self, records: Records) -> None:
        """Add the next chunk of rows, in file order."""
        if not len(records):
            return
        starts, ids = _runs(records)
        ordinals = [self._ordinals.setdefault(track_id, len(self._ordinals)) for track_id in ids.tolist()]
        part_of_run = np.array(ordinals) // TRACKS_PER_PART
        offset = self._file.seek(0, os.SEEK_END)
        for part, piece in _pieces(records, starts, part_of_run):
            size = self._file.write(piece.tobytes())
            self._pieces.setdefault(part, []).append((offset, size))
            offset += size
        self._file.flush()

    def tracks(self) -> Iterator[Records]:
        """Yield the rows of each track in file order; the tracks come in order of first appearance."""
        for part in range(len(self._pieces)):
            pieces = (os.pread(self._file.fileno(), size, offset) for offset, size in self._pieces[part])
            yield from _split(np.frombuffer(b"".join(pieces), dtype=RECORD))

    def close(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError):  # closing flushes the buffer, which fails when the disk is full
            self._file.close()


def _split(records: Records) -> Iterator[Records]:
    """Yield one array for each track, in order of first appearance."""
    starts, ids = _runs(records)
    if len(ids) == 1:
        yield records
        return
    ordinals: dict[int, int] = {}
    for _, rows in _pieces(records, starts, np.array([ordinals.setdefault(i, len(ordinals)) for i in ids.tolist()])):
        yield rows


def _runs(records: Records) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first row of each run of rows of one track, and the track ids of the runs, (R,) each.

    In most files a track is a single run, so that work on runs is much less than work on rows.
    """
    track_id = np.ascontiguousarray(records["track_id"])
    changes = np.flatnonzero(track_id[1:] != track_id[:-1])
    starts = np.zeros(len(changes) + 1, np.int64)
    np.add(changes, 1, out=starts[1:])
    return starts, track_id[starts]


def _pieces(
    records: Records, starts: npt.NDArray[np.int64], group: npt.NDArray[np.int64]
) -> Iterator[tuple[int, Records]]:
    """Yield each group of runs in ascending order, with its rows in file order.

    Args:
        records: Rows, (N,).
        starts: First row of each run, (R,).
        group: Group of each run, (R,).
    """
    changes = np.append(0, np.flatnonzero(np.diff(group)) + 1)
    if (np.diff(group[changes]) > 0).all():  # every group is one slice of the rows
        for start, stop, run in zip(starts[changes], [*starts[changes[1:]], len(records)], changes, strict=True):
            yield int(group[run]), records[start:stop]
        return
    of_row = np.repeat(group, np.diff(starts, append=len(records)))
    order = np.argsort(of_row, kind="stable")
    groups, first = np.unique(of_row[order], return_index=True)
    for each, rows in zip(groups.tolist(), np.split(order, first[1:]), strict=True):
        yield each, records[rows]
