"""The rows of a file by track: in memory, or on disk when they are many."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Protocol

import numpy as np

from reentry.tracks.cells import RECORD, Records

TRACKS_PER_PART: Final = 256
"""Tracks that are read back from disk at a time."""


class RowStore(Protocol):
    """Takes records in the file's order, and gives them back one track after the other, by first appearance."""

    def append(self, records: Records) -> None:
        """Take the records of the next chunk."""

    def tracks(self) -> Iterator[Records]:
        """Give the records of each track, in the file's order."""

    def close(self) -> None:
        """Give up what it holds."""


class MemoryStore:
    """Rows in memory."""

    def __init__(self) -> None:
        self._chunks: list[Records] = []

    def append(self, records: Records) -> None:
        """See `RowStore`."""
        self._chunks.append(records)

    def tracks(self) -> Iterator[Records]:
        """See `RowStore`."""
        if self._chunks:
            yield from _split(np.concatenate(self._chunks))

    def close(self) -> None:
        """See `RowStore`."""
        self._chunks.clear()


class DiskStore:
    """Rows in a temporary file without a name (TMPDIR says where), which ends with the process, however that ends.

    The tracks are numbered by first appearance, and `TRACKS_PER_PART` of them are a part. The rows of a part lie in one
    run for each chunk.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        self._ordinals: dict[int, int] = {}
        self._runs: dict[int, list[tuple[int, int]]] = {}
        """Place and number of bytes of the runs of each part."""

    def append(self, records: Records) -> None:
        """See `RowStore`."""
        if not len(records):
            return
        ids, first, inverse = np.unique(records["track_id"], return_index=True, return_inverse=True)
        for track_id in ids[np.argsort(first)].tolist():
            self._ordinals.setdefault(track_id, len(self._ordinals))
        part_of = np.array([self._ordinals[i] for i in ids.tolist()], dtype=np.int64)[inverse] // TRACKS_PER_PART
        order = np.argsort(part_of, kind="stable")
        parts, starts = np.unique(part_of[order], return_index=True)
        place = self._file.seek(0, os.SEEK_END)
        for part, rows in zip(parts.tolist(), np.split(order, starts[1:]), strict=True):
            run = records[rows].tobytes()
            self._file.write(run)
            self._runs.setdefault(part, []).append((place, len(run)))
            place += len(run)
        self._file.flush()

    def tracks(self) -> Iterator[Records]:
        """See `RowStore`."""
        for part in range(len(self._runs)):
            runs = (os.pread(self._file.fileno(), size, place) for place, size in self._runs[part])
            yield from _split(np.frombuffer(b"".join(runs), dtype=RECORD))

    def close(self) -> None:
        """See `RowStore`."""
        with suppress(OSError):  # a full disk does not take what is still to be written
            self._file.close()


def _split(records: Records) -> Iterator[Records]:
    """One array for each track, by first appearance."""
    _, first, inverse, counts = np.unique(
        records["track_id"], return_index=True, return_inverse=True, return_counts=True
    )
    by_appearance = np.argsort(first)
    rank = np.empty_like(by_appearance)
    rank[by_appearance] = np.arange(len(rank))
    order = np.argsort(rank[inverse], kind="stable")
    ends = np.cumsum(counts[by_appearance])
    for start, end in zip([0, *ends.tolist()], ends.tolist(), strict=False):
        yield records[order[start:end]]
