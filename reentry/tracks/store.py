"""The rows of a file by track: in memory, or on disk when they are many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from reentry.tracks.cells import RECORD, Records

TRACKS_PER_PART: Final = 256
"""Tracks of one file on disk: one such file at a time is read back."""


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
    """Rows in a temporary folder (TMPDIR says where), in one file for every `TRACKS_PER_PART` tracks."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reentry-tracks-")
        self._ordinals: dict[int, int] = {}

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
        for part, rows in zip(parts.tolist(), np.split(order, starts[1:]), strict=True):
            with self._path(part).open("ab") as file:
                file.write(records[rows].tobytes())

    def tracks(self) -> Iterator[Records]:
        """See `RowStore`."""
        for part in range(-(-len(self._ordinals) // TRACKS_PER_PART)):
            yield from _split(np.fromfile(self._path(part), dtype=RECORD))

    def close(self) -> None:
        """See `RowStore`."""
        self._folder.cleanup()

    def _path(self, part: int) -> Path:
        return Path(self._folder.name, f"{part}.rows")


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
