"""Fingerprints that identify a file of tracks, a set of tracks, or one flight."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from reentry.errors import TrackFileError
from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, SCHEMA_VERSION, TIMESTAMP
from reentry.tracks.track import Track

_IDENTIFYING_COLUMNS: Final = [MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, ALTITUDE)]


def fingerprint(path: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the schema version and the bytes of a file.

    Raises:
        TrackFileError: The file cannot be read.
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
    """Return the SHA-256, in hexadecimal, of the schema version and a set of repaired tracks.

    A track counts by its id, timestamps and altitudes. The fingerprint is therefore the same for CSV and Parquet, in
    any order of tracks and rows, and with or without labels. A checkpoint stores it to identify its training data.
    """
    digests = [hashlib.sha256(f"{track.track_id}\n".encode() + _identifying_bytes(track)).digest() for track in tracks]
    return hashlib.sha256(f"reentry schema {SCHEMA_VERSION}\n".encode() + b"".join(sorted(digests))).hexdigest()


def flight_fingerprint(track: Track) -> str:
    """Return 16 hexadecimal digits that identify a flight by its timestamps and altitudes, whatever its track id."""
    return hashlib.sha256(_identifying_bytes(track)).hexdigest()[:16]


def _identifying_bytes(track: Track) -> bytes:
    """Return the timestamps and altitudes of a repaired track, in time order, as little-endian float64."""
    timestamp, altitude = track.measurements[:, _IDENTIFYING_COLUMNS].T
    values = np.stack([timestamp, altitude], axis=1)[np.lexsort((altitude, timestamp))]
    return bytes(values.astype("<f8"))
