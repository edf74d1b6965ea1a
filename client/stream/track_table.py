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
    "last_seen": np.float64,  # monotonic time, s, of the latest answer to a valid measurement
    "started": np.bool_,  # the server has the state of the track
    "alerted": np.bool_,  # the alert of the track was given
    "alert_onset": np.float64,  # Unix time of the onset in the alert, s
    "refinements": np.uint8,  # number of `refinement.HINDSIGHTS` for which the refined onset was given
    "given_hindsight": np.float64,  # hindsight of the refined onset that was given last, s
    "refined": np.float64,  # latest refined onset, Unix time, s
    "refined_deviation": np.float64,  # its standard deviation, s; not positive if it is unknown
    "refined_hindsight": np.float64,  # its hindsight, s
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
    alert_onset: npt.NDArray[np.float64]
    refinements: npt.NDArray[np.uint8]
    given_hindsight: npt.NDArray[np.float64]
    refined: npt.NDArray[np.float64]
    refined_deviation: npt.NDArray[np.float64]
    refined_hindsight: npt.NDArray[np.float64]
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
        self.begun = 0
        """Number of tracks since the start."""
        self._resting: list[int] = []  # slots of dropped tracks whose measurements are still in the replay buffer

    def latest(self, track_id: int) -> tuple[str, float]:
        """Return the phase of a track, `reentry`, `flight` or `dropped`, and its latest probability."""
        position = int(np.searchsorted(self._ids, track_id))
        if position == len(self._ids) or self._ids[position] != track_id:
            return "dropped", float("nan")
        slot = self._slots[position]
        return ("reentry" if self.phase[slot] else "flight"), float(self.probability[slot])

    @property
    def in_reentry(self) -> int:
        """Number of live tracks in reentry."""
        return int(np.count_nonzero(self.phase[self._slots]))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def live_slots(self) -> Slots:
        """Slots of all live tracks."""
        return self._slots

    def slots_of(self, track_ids: npt.NDArray[np.int64], now: float) -> Slots:
        """Return the slot of each measurement, (N,) -> (N,); tracks that are new at the time `now` get one."""
        known = self.known(track_ids)
        if not known.all():
            self._add(np.unique(track_ids[~known]), now)
        slots: Slots = self._slots[np.searchsorted(self._ids, track_ids)]
        return slots

    def known(self, track_ids: npt.NDArray[np.int64]) -> Bools:
        """Return whether the track of each measurement is live, (N,) -> (N,)."""
        if not len(self._ids):
            return np.zeros(len(track_ids), np.bool_)
        place = np.minimum(np.searchsorted(self._ids, track_ids), len(self._ids) - 1)
        known: Bools = self._ids[place] == track_ids
        return known

    def beyond(self, track_ids: npt.NDArray[np.int64], most: int) -> Bools:
        """Return which measurements belong to new tracks for which there is no room, (N,) -> (N,).

        Args:
            track_ids: track of each measurement, (N,).
            most: largest number of live tracks.
        """
        if len(self) + len(track_ids) <= most:
            return np.zeros(len(track_ids), np.bool_)
        new = np.unique(track_ids[~self.known(track_ids)])
        return np.isin(track_ids, new[max(0, most - len(self)) :])

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

    def _add(self, track_ids: npt.NDArray[np.int64], now: float) -> None:
        """Give slots to tracks, sorted and without duplicates."""
        while len(self._free) < len(track_ids):
            size = len(self.live)
            for name in _COLUMNS:
                setattr(self, name, np.concatenate([getattr(self, name), np.zeros_like(getattr(self, name))]))
            self._free = list(range(2 * size - 1, size - 1, -1)) + self._free
        self.begun += len(track_ids)
        slots = np.array([self._free.pop() for _ in range(len(track_ids))], np.int32)
        for name in _COLUMNS:
            getattr(self, name)[slots] = 0
        self.track_id[slots] = track_ids
        self.live[slots] = True
        self.last_seen[slots] = now
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
