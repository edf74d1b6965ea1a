"""The live tracks of a feed: one row of arrays for each, so that a scan of thousands needs no loop.

Each track has a slot, its index into the arrays. A track that was silent for too long is dropped, and a later
measurement with the same number begins a new track.

Shapes: N measurements of one call, S slots.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

_COLUMNS: Final = {
    "track_id": np.int64,
    "live": np.bool_,  # the slot holds a track
    "last_seen": np.float64,  # monotonic time, s, at which the latest measurement was handed over or answered
    "started": np.bool_,  # the server has the state of the track
    "alerted": np.bool_,  # the alert of the track was given
    "accepted": np.int64,  # number of accepted measurements
    "first_kept": np.int64,  # number of the first one that the replay buffer still holds
    "truncated": np.bool_,  # the replay buffer has lost the first measurements of the track
    "probability": np.float32,  # latest
    "phase": np.uint8,  # latest
}


class TrackTable:
    """Slots and state of the live tracks of a feed."""

    track_id: npt.NDArray[np.int64]
    live: Bools
    last_seen: npt.NDArray[np.float64]
    started: Bools
    alerted: Bools
    accepted: npt.NDArray[np.int64]
    first_kept: npt.NDArray[np.int64]
    truncated: Bools
    probability: npt.NDArray[np.float32]
    phase: npt.NDArray[np.uint8]

    def __init__(self) -> None:
        for name, dtype in _COLUMNS.items():
            setattr(self, name, np.zeros(64, dtype))
        self._ids = np.zeros(0, np.int64)  # sorted
        self._slots = np.zeros(0, np.int32)  # slot of each of `_ids`
        self._free = list(range(63, -1, -1))
        self._resting: list[int] = []  # slots of dropped tracks whose measurements are still in the replay buffer

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def live_slots(self) -> Slots:
        """Slots of all live tracks."""
        return self._slots

    def slots_of(self, track_ids: npt.NDArray[np.int64]) -> Slots:
        """Return the slot of each measurement, (N,) -> (N,); unknown tracks get one."""
        if not len(self._ids):
            self._add(np.unique(track_ids))
        position = np.minimum(np.searchsorted(self._ids, track_ids), len(self._ids) - 1)
        unknown = self._ids[position] != track_ids
        if unknown.any():
            self._add(np.unique(track_ids[unknown]))
            position = np.searchsorted(self._ids, track_ids)
        slots: Slots = self._slots[position]
        return slots

    def drop(self, slots: Slots) -> None:
        """Forget tracks."""
        self.live[slots] = False
        self._resting += slots[self.accepted[slots] > 0].tolist()
        self._free += slots[self.accepted[slots] == 0].tolist()
        kept = self.live[self._slots]
        self._ids, self._slots = self._ids[kept], self._slots[kept]

    def release(self) -> None:
        """Let new tracks use the slots of dropped ones, because no buffer refers to them any more."""
        self._free += self._resting
        self._resting = []

    def _add(self, track_ids: npt.NDArray[np.int64]) -> None:
        """Give slots to tracks, sorted and without duplicates."""
        while len(self._free) < len(track_ids):
            size = len(self.live)
            for name in _COLUMNS:
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros_like(getattr(self, name))]))
            self._free = list(range(2 * size - 1, size - 1, -1)) + self._free
        slots = np.array([self._free.pop() for _ in range(len(track_ids))], np.int32)
        for name in _COLUMNS:
            getattr(self, name)[slots] = 0
        self.track_id[slots] = track_ids
        self.live[slots] = True
        self.probability[slots] = np.nan
        place = np.searchsorted(self._ids, track_ids)
        self._ids = np.insert(self._ids, place, track_ids)
        self._slots = np.insert(self._slots, place, slots)


def ranks(slots: Slots) -> npt.NDArray[Any]:
    """Number of earlier measurements of the same track in one call, (N,) -> (N,)."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=-1))
    result = np.empty(len(slots), np.int64)
    result[order] = np.arange(len(slots)) - np.repeat(begins, np.diff(np.append(begins, len(slots))))
    return result
