"""Track tables into files: CSV or Parquet, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from reentry.errors import TrackFileError
from reentry.runtime.files import whole_file
from reentry.tracks.formats import CSV_SUFFIXES, file_format
from reentry.tracks.origin import ORIGIN_KEY


def write_tracks(
    path: Path, tables: pd.DataFrame | Iterable[pd.DataFrame], *, origin: Mapping[str, Any] | None = None
) -> None:
    """Write one table, or several below each other, as CSV or Parquet by the suffix of `path`.

    Floats are written so that reading gives the same bits. The file appears under its name when it is whole.

    Args:
        path: of the file.
        tables: of tracks.
        origin: where they are from, kept in a Parquet file for `origin_of`; JSON's types.

    Raises:
        TrackFileError: another suffix, no table at all, or a place that takes no file.
        ValueError: tables of different columns.
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
