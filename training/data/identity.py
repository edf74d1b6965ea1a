"""Fingerprints of training data: which file, which set of tracks, which flight, which rows of a flight.

| question | answer | computed by | kept in the checkpoint as |
| --- | --- | --- | --- |
| Is it the same file, byte for byte? | file fingerprint | `reentry.tracks.fingerprint` | `data_file_fingerprint` |
| Is it the same set of tracks, in any file format and order? | tracks fingerprint | `DataIdentity` | `data_fingerprint` |
| Is this whole flight one of the training flights, under any track id? | flight fingerprint | `DataIdentity` | `trained_flights` |
| Is this track a part of a training flight, or a longer recording of it? | sketch | `DataIdentity`, `FlightIndex` | `trained_rows` |

Checkpoints store these values, so the same data must give the same values in every version of this program.

Shapes: K flights, S stretches of a flight, T steps.
"""  # noqa: E501 (a table)

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from reentry.schema import (
    ALTITUDE,
    LATITUDE,
    LONGITUDE,
    MEASUREMENT_COLUMNS,
    RADIOMETRIC_INTENSITY,
    SCHEMA_VERSION,
    TIMESTAMP,
)
from reentry.tracks import Track

STRETCHES: Final = 16
"""Number of equal stretches of a flight. A sketch keeps one 4-byte hash of each, so it takes 64 bytes."""
MATCHING_SHARE: Final = 0.25
"""Share of a flight's kept rows that a copy must contain; any five consecutive stretches hold that many."""
MATCHING_ROWS: Final = 2
"""Least number of kept rows that a copy must contain. Any two flights may share one row, e.g. on the launch pad."""

_FLIGHT_COLUMNS: Final = [MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, ALTITUDE)]
_ROW_COLUMNS: Final = [
    MEASUREMENT_COLUMNS.index(column.name) for column in (LATITUDE, LONGITUDE, ALTITUDE, RADIOMETRIC_INTENSITY)
]

Hashes = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIdentity:
    """Fingerprints of a set of K tracks and of each track in it."""

    tracks_fingerprint: str
    """SHA-256 in hexadecimal of the schema version and the tracks: their ids, timestamps and altitudes after repair.

    It does not depend on the file format, on the labels or on the order of tracks and rows.
    """
    track_ids: tuple[int, ...]
    """Id of each track, K values."""
    flight_fingerprints: tuple[str, ...]
    """First 16 hexadecimal digits of the SHA-256 of each track's timestamps and altitudes, K values."""
    sketches: torch.Tensor
    """(K, S) int32, the smallest row hash of each stretch of each track; a short track repeats its row hashes.

    Rows at fixed positions could all be missing from a copy that has every second row; the smallest hash is not tied
    to a position.
    """

    @classmethod
    def of(cls, tracks: Iterable[Track]) -> DataIdentity:
        """Compute all fingerprints in one pass over the tracks."""
        ids, with_id, without_id, sketches = [], [], [], []
        for track in tracks:
            values = _flight_values(track)
            ids.append(track.track_id)
            with_id.append(hashlib.sha256(f"{track.track_id}\n".encode() + values).digest())
            without_id.append(hashlib.sha256(values).hexdigest()[:16])
            sketches.append(_sketch(_row_hashes(track)))
        content = f"reentry schema {SCHEMA_VERSION}\n".encode() + b"".join(sorted(with_id))
        hashes = np.array(sketches, dtype=np.uint32).reshape(-1, STRETCHES)
        return cls(
            tracks_fingerprint=hashlib.sha256(content).hexdigest(),
            track_ids=tuple(ids),
            flight_fingerprints=tuple(without_id),
            sketches=torch.from_numpy(hashes.view(np.int32)),  # PyTorch supports few operations on unsigned types
        )


class FlightIndex:
    """Index that recognises a track as a copy, a part or a longer recording of one of K known flights.

    It compares rows by position and intensity, so neither the track id, the file nor the clock matters.

    Args:
        sketches: (K, S) int32, `DataIdentity.sketches` of the known flights.
    """

    def __init__(self, sketches: torch.Tensor) -> None:
        hashes = sketches.numpy().view(np.uint32)
        pairs = np.stack([hashes, np.broadcast_to(np.arange(len(hashes))[:, None], hashes.shape)], axis=-1)
        # One entry for each row hash of each flight, sorted by hash.
        self._hashes, self._flights = np.unique(pairs.reshape(-1, 2), axis=0).T
        kept = np.bincount(self._flights, minlength=len(hashes))
        self._required = np.maximum(np.ceil(MATCHING_SHARE * kept), MATCHING_ROWS)

    def recognises(self, track: Track) -> bool:
        """Whether the track contains enough rows of one known flight."""
        hashes = np.unique(_row_hashes(track))
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        flights = [self._flights[start:end] for start, end in zip(first, last, strict=True) if end > start]
        if not flights:
            return False
        flight, shared = np.unique(np.concatenate(flights), return_counts=True)
        return bool((shared >= self._required[flight]).any())


def _flight_values(track: Track) -> bytes:
    """Timestamps and altitudes of a repaired track, sorted by time."""
    timestamp, altitude = track.measurements[:, _FLIGHT_COLUMNS].T
    values = np.stack([timestamp, altitude], axis=1)[np.lexsort((altitude, timestamp))]
    return bytes(values.astype("<f8"))


def _sketch(hashes: Hashes) -> Hashes:
    """Reduce the row hashes of a track, (T,), to one of each stretch, (S,)."""
    starts = np.arange(STRETCHES) * len(hashes) // STRETCHES
    return hashes[starts] if len(hashes) < STRETCHES else np.minimum.reduceat(hashes, starts)


def _row_hashes(track: Track) -> Hashes:
    """32-bit hash of each row, (T,). It leaves time out, since repair may count time from another start."""
    cells = np.ascontiguousarray(track.measurements[:, _ROW_COLUMNS] + 0.0, dtype="<f8")  # + 0.0 turns -0.0 into 0.0
    mixed = np.zeros(len(cells), dtype=np.uint64)
    for column in cells.view("<u8").T:
        mixed = splitmix64(mixed ^ column)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the bits of integers, so that similar integers give unrelated ones."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
