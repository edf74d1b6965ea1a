"""The accepted measurements of the live tracks of a feed, from which a server that lost its state gets it again.

The measurements of all tracks lie in one log in order of arrival. The log is allocated once, and the operating system
provides its memory as it fills. A full log is compacted: dropped tracks go first. If that is not enough, the oldest
measurements of the longest tracks follow, and these tracks can then only be replayed from there on.

Shapes: N measurements, M measurement columns.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from client.stream.track_table import Slots, TrackTable, ranks
from reentry.schema import MEASUREMENT_COLUMNS

_KEPT: Final = 0.75
"""Fraction of the log that is filled after a compaction, so that the next one is far away."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replay:
    """Measurements to send again, in order of arrival."""

    slots: Slots
    """Track of each measurement, (N,)."""
    rows: npt.NDArray[np.float64]
    """Measurements, (N, M)."""
    handed: npt.NDArray[np.float64]
    """Monotonic time at which each one was handed to the feed, (N,), s."""

    def part(self, positions: slice) -> Replay:
        """Return some of the measurements."""
        return Replay(self.slots[positions], self.rows[positions], self.handed[positions])


class ReplayBuffer:
    """A bounded log of measurements."""

    def __init__(self, tracks: TrackTable, limit: int) -> None:
        """Reserve the log.

        Args:
            tracks: the tracks whose measurements are kept.
            limit: largest number of measurements, 64 bytes each; at least as many as one call appends.
        """
        self._tracks = tracks
        self._limit = limit
        self._size = 0
        self._slots = np.empty(limit, np.int32)
        self._number = np.empty(limit, np.int32)  # of the measurement in its track
        self._handed = np.empty(limit, np.float64)
        self._rows = np.empty((limit, len(MEASUREMENT_COLUMNS)), np.float64)

    def __len__(self) -> int:
        """Measurements in the log, those of dropped tracks included."""
        return self._size

    def append(self, slots: Slots, rows: npt.NDArray[np.float64], handed: float) -> None:
        """Keep accepted measurements, (N,) and (N, M), which were handed to the feed at one time."""
        if len(slots) > self._limit - self._size:
            self._compact(len(slots))
        end = self._size + len(slots)
        part = slice(self._size, end)
        accepted = self._tracks.accepted
        if len(slots) == 1:
            self._number[part] = accepted[slots]
            accepted[slots] += 1
        else:
            number = accepted[slots] + ranks(slots)
            self._number[part] = number
            accepted[slots] = number + 1  # of a track that occurs several times, the last one stays
        self._slots[part], self._rows[part], self._handed[part] = slots, rows, handed
        self._size = end

    def replay_of(self, slots: Slots) -> Replay:
        """Return the kept measurements of tracks in order of arrival."""
        wanted = np.zeros(len(self._tracks.live), np.bool_)
        wanted[slots] = True
        found = np.flatnonzero(self._kept() & wanted[self._slots[: self._size]])
        return Replay(self._slots[found], self._rows[found], self._handed[found])

    def forget(self, slots: Slots) -> None:
        """Drop the measurements of tracks that begin again."""
        self._tracks.first_kept[slots] = self._tracks.accepted[slots]
        self._tracks.truncated[slots] = False

    def _kept(self) -> npt.NDArray[np.bool_]:
        """Whether each measurement of the log belongs to a live track and was not truncated."""
        slots = self._slots[: self._size]
        kept: npt.NDArray[np.bool_] = self._tracks.live[slots] & (
            self._number[: self._size] >= self._tracks.first_kept[slots]
        )
        return kept

    def _compact(self, needed: int) -> None:
        """Remove what is not needed, and then the oldest measurements of the longest tracks."""
        room = max(0, int(self._limit * _KEPT) - needed)
        tracks = self._tracks
        live = tracks.live_slots
        lengths = tracks.accepted[live] - tracks.first_kept[live]
        if lengths.sum() > room:
            longest = _longest_allowed(lengths, room)
            cut = live[lengths > longest]
            tracks.first_kept[cut] = tracks.accepted[cut] - longest
            tracks.truncated[cut] = True
            _log.debug("the replay buffer is full: %d tracks keep their last %d measurements", len(cut), longest)
        kept = np.flatnonzero(self._kept())
        for array in (self._slots, self._number, self._handed, self._rows):
            array[: len(kept)] = array[: self._size][kept]
        self._size = len(kept)
        tracks.release()


def _longest_allowed(lengths: npt.NDArray[np.int64], room: int) -> int:
    """Largest length for which tracks, truncated to it, fit into `room` together."""
    low, high = 0, int(lengths.max())
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(lengths, middle).sum() <= room:
            low = middle
        else:
            high = middle - 1
    return low
