"""What tells one file of tracks, and one set of tracks, from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reentry.errors import TrackFileError
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, SCHEMA_VERSION, TIMESTAMP
from reentry.tracks.track import Track


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
    columns = [MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, ALTITUDE)]
    flights = []
    for track in tracks:
        timestamp, altitude = track.measurements[:, columns].T
        values = np.stack([timestamp, altitude], axis=1)[np.lexsort((altitude, timestamp))]
        flights.append(hashlib.sha256(f"{track.track_id}\n".encode() + values.astype("<f8").tobytes()).digest())
    return hashlib.sha256(f"reentry schema {SCHEMA_VERSION}\n".encode() + b"".join(sorted(flights))).hexdigest()
