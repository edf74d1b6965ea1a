"""Copies of the flights that trained a network, whole or cut off, recognised by some of their rows.

Of each flight one row of each of `STRETCHES` even stretches is kept, as 32 bits of a hash. A track of which many rows
are among those of one flight is a copy of it, or a part, or holds it: under another id, with another clock, in another
file. A row is its position and its intensity without the time, which repair may count from another start.

Shapes: K flights, S stretches, T steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from reentry.schema import ALTITUDE, LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, RADIOMETRIC_INTENSITY
from reentry.tracks import Track

STRETCHES: Final = 16
"""Four bytes each, so that a flight takes 64."""
ENOUGH: Final = 0.25
"""Share of a flight's rows, of those kept, that make a copy; any five stretches in a row hold as many."""
AT_LEAST: Final = 2
"""Such rows: one may be any flight's, as a target on its launch pad."""

_TOLD_BY: Final = [
    MEASUREMENT_COLUMNS.index(column.name) for column in (LATITUDE, LONGITUDE, ALTITUDE, RADIOMETRIC_INTENSITY)
]

Hashes = npt.NDArray[np.uint32]


def sketches(tracks: Iterable[Track]) -> torch.Tensor:
    """(K, S) int32, of each flight the smallest hash of each stretch; one of fewer steps repeats its own.

    The smallest, for rows at fixed places could all be missing from a copy of every second row.
    """
    found = np.array([_smallest(_hashes(track)) for track in tracks], dtype=np.uint32).reshape(-1, STRETCHES)
    return torch.from_numpy(found.view(np.int32))  # of PyTorch's unsigned types few operations know


class FlightIndex:
    """Flights by their sketches."""

    def __init__(self, sketched: torch.Tensor) -> None:
        """Take those of `sketches`."""
        hashes = sketched.numpy().view(np.uint32)
        pairs = np.stack([hashes, np.broadcast_to(np.arange(len(hashes))[:, None], hashes.shape)], axis=-1)
        self._hashes, self._flight = np.unique(pairs.reshape(-1, 2), axis=0).T
        """Of each row that is kept, once for each flight, by hash."""
        kept = np.bincount(self._flight, minlength=len(hashes))
        self._enough = np.maximum(np.ceil(ENOUGH * kept), AT_LEAST)
        """(K,), rows of each flight that make a copy."""

    def hold(self, track: Track) -> bool:
        """Whether enough rows of one flight are in the track."""
        hashes = np.unique(_hashes(track))
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        flights = [self._flight[start:end] for start, end in zip(first, last, strict=True) if end > start]
        if not flights:
            return False
        flight, shared = np.unique(np.concatenate(flights), return_counts=True)
        return bool((shared >= self._enough[flight]).any())


def _smallest(hashes: Hashes) -> Hashes:
    """(T,) -> (S,)."""
    starts = np.arange(STRETCHES) * len(hashes) // STRETCHES
    return hashes[starts] if len(hashes) < STRETCHES else np.minimum.reduceat(hashes, starts)


def _hashes(track: Track) -> Hashes:
    """(T,), 32 bits of each row; the same in every version of this program, for checkpoints keep them."""
    cells = np.ascontiguousarray(track.measurements[:, _TOLD_BY] + 0.0, dtype="<f8")  # + 0.0: -0.0 is 0.0
    mixed = np.zeros(len(cells), dtype=np.uint64)
    for column in cells.view("<u8").T:
        mixed = _mixed(mixed ^ column)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread over all bits, by the step of splitmix64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
