"""Stores that collect the rows of a file and return them grouped by track, in memory or on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np

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
        if self._chunks:
            yield from _split(np.concatenate(self._chunks))

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
        ids, first, inverse = np.unique(records["track_id"], return_index=True, return_inverse=True)
        for track_id in ids[np.argsort(first)].tolist():
            self._ordinals.setdefault(track_id, len(self._ordinals))
        part_of = np.array([self._ordinals[i] for i in ids.tolist()], dtype=np.int64)[inverse] // TRACKS_PER_PART
        order = np.argsort(part_of, kind="stable")
        parts, starts = np.unique(part_of[order], return_index=True)
        offset = self._file.seek(0, os.SEEK_END)
        for part, rows in zip(parts.tolist(), np.split(order, starts[1:]), strict=True):
            piece = records[rows].tobytes()
            self._file.write(piece)
            self._pieces.setdefault(part, []).append((offset, len(piece)))
            offset += len(piece)
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
    _, first, inverse, counts = np.unique(
        records["track_id"], return_index=True, return_inverse=True, return_counts=True
    )
    by_appearance = np.argsort(first)
    order = np.argsort(np.argsort(by_appearance)[inverse], kind="stable")
    for rows in np.split(order, np.cumsum(counts[by_appearance]))[:-1]:
        yield records[rows]
