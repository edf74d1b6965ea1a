"""Fingerprint of a file of tracks; `training.data.identity` has those of tracks and flights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reentry.errors import TrackFileError
from reentry.schema import SCHEMA_VERSION


def start_fingerprint() -> hashlib._Hash:
    """Return the SHA-256 of the schema version, to be updated with the bytes of a file as they are read."""
    return hashlib.sha256(f"reentry schema {SCHEMA_VERSION}\n".encode())


def fingerprint(path: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the schema version and the bytes of a file.

    Raises:
        TrackFileError: The file cannot be read.
    """
    digest = start_fingerprint()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise TrackFileError("cannot be read", where=str(path), got=error.strerror) from error
    return digest.hexdigest()
