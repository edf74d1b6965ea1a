"""What tells one file of tracks, and one set of tracks, from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from reentry.errors import TrackFileError
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, SCHEMA_VERSION, TIMESTAMP
from reentry.tracks.track import Track

_TOLD_BY: Final = [MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, ALTITUDE)]


def fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal, over the schema version and the bytes of the file.

    Raises:
        TrackFileError: the file cannot be read.
    """
    digest = hashlib.sha256(f"reentry schema {SCHEMA_VERSION}\n".encode())
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise TrackFileError("cannot be read", where=str(path), got=error.strerror) from error
    return digest.hexdigest()


def tracks_fingerprint(tracks: Iterable[Track]) -> str:
    """SHA-256, in hexadecimal, over the schema version and the flights: what a checkpoint was trained on.

    A flight is its id, its timestamps and its altitudes, as read and repaired; so CSV and Parquet agree, in any order
    of tracks and rows, with labels or without.
    """
    flights = [hashlib.sha256(f"{track.track_id}\n".encode() + _values(track)).digest() for track in tracks]
    return hashlib.sha256(f"reentry schema {SCHEMA_VERSION}\n".encode() + b"".join(sorted(flights))).hexdigest()


def flight_fingerprint(track: Track) -> str:
    """16 hexadecimal digits of a flight's timestamps and altitudes: the same under another id and in another file."""
    return hashlib.sha256(_values(track)).hexdigest()[:16]


def _values(track: Track) -> bytes:
    """Timestamps and altitudes, by time, as read and repaired."""
    timestamp, altitude = track.measurements[:, _TOLD_BY].T
    values = np.stack([timestamp, altitude], axis=1)[np.lexsort((altitude, timestamp))]
    return bytes(values.astype("<f8"))
