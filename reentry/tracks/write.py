"""Writing tables of tracks as CSV or Parquet, and the record of their origin that a Parquet file keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from reentry.errors import TrackFileError
from reentry.runtime.files import whole_file
from reentry.tracks.formats import CSV_SUFFIXES, PARQUET_SUFFIXES, file_format

ORIGIN_KEY: Final = b"reentry.simulation"
"""Key in the metadata of a Parquet file whose value is the origin as JSON."""


def write_tracks(
    path: Path, tables: pd.DataFrame | Iterable[pd.DataFrame], *, origin: Mapping[str, Any] | None = None
) -> None:
    """Write one table, or several tables one after the other, in the format that the suffix of `path` names.

    Floats keep every bit when they are read back. The file is written atomically: an interrupted call leaves no
    partial file, and keeps an existing file unchanged.

    Args:
        path: Path of the file.
        tables: Tables of tracks with the same columns.
        origin: JSON object that says where the tracks come from; a Parquet file keeps it for `origin_of`.

    Raises:
        TrackFileError: The suffix is not supported, there is no table, or the file cannot be written.
        ValueError: The tables have different columns.
    """
    is_csv = file_format(path) in CSV_SUFFIXES
    chunks = iter([tables] if isinstance(tables, pd.DataFrame) else tables)
    first = next(chunks, None)
    if first is None:
        raise TrackFileError("nothing to write", where=str(path), expected="at least one table of tracks")
    head = pa.Table.from_pandas(first, preserve_index=False).replace_schema_metadata(
        {ORIGIN_KEY: json.dumps(origin, sort_keys=True)} if origin is not None else None
    )
    try:
        with whole_file(path) as part, _writer(part, head.schema, is_csv) as writer:
            writer.write_table(head)
            for chunk in chunks:
                if list(chunk) != head.column_names:
                    raise ValueError(f"Expected the columns {head.column_names}. Got: {list(chunk)}")
                writer.write_table(pa.Table.from_pandas(chunk, schema=head.schema, preserve_index=False))
    except OSError as error:
        raise TrackFileError("cannot be written", where=str(path), got=error.strerror or str(error)) from error


def _writer(path: Path, schema: pa.Schema, is_csv: bool) -> pyarrow.csv.CSVWriter | pyarrow.parquet.ParquetWriter:
    if is_csv:
        options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="none")
        return pyarrow.csv.CSVWriter(path, schema, write_options=options)
    return pyarrow.parquet.ParquetWriter(path, schema)


def origin_of(path: Path) -> dict[str, Any] | None:
    """Return how a Parquet file of tracks was simulated, or None if the file does not record it.

    The keys are "profile", "severity", "seed", "tracks" and "settings", and "label_rule" for the trapezoid profile.
    CSV files and files of measured tracks record no origin.

    Raises:
        TrackFileError: The suffix is not supported, or the file cannot be read.
    """
    if file_format(path) not in PARQUET_SUFFIXES:
        return None
    try:
        text = (pyarrow.parquet.read_schema(path).metadata or {}).get(ORIGIN_KEY)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TrackFileError("cannot be read", where=str(path), got=str(error)) from error
    try:
        origin = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return None
    return origin if isinstance(origin, dict) else None
