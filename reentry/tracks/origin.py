"""Where a file of tracks is from, as it says itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet

from reentry.errors import TrackFileError
from reentry.tracks.formats import PARQUET_SUFFIXES, file_format

ORIGIN_KEY: Final = b"reentry.simulation"
"""Of a Parquet file's metadata; the value is JSON."""


def origin_of(path: Path) -> dict[str, Any] | None:
    """How a Parquet file of tracks was simulated: "profile", "severity", "seed", "tracks" and "settings".

    Trapezoids have a "label_rule" too.

    None for a file that does not say it, as a CSV file or a measured one.

    Raises:
        TrackFileError: another suffix, or the file cannot be read.
    """
    if file_format(path) not in PARQUET_SUFFIXES:
        return None
    try:
        said = (pyarrow.parquet.read_schema(path).metadata or {}).get(ORIGIN_KEY)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TrackFileError("cannot be read", where=str(path), got=str(error)) from error
    try:
        origin = json.loads(said) if said is not None else None
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        return None
    return origin if isinstance(origin, dict) else None
