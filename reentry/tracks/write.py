"""Track tables into files: CSV or Parquet, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from reentry.errors import TrackFileError
from reentry.files import whole_file
from reentry.tracks.formats import CSV_SUFFIXES, file_format


def write_tracks(path: Path, tables: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
    """Write one table, or several below each other, as CSV or Parquet by the suffix of `path`.

    Floats are written so that reading gives the same bits. The file appears under its name when it is whole.

    Raises:
        TrackFileError: another suffix, no table at all, or a place that takes no file.
        ValueError: tables of different columns.
    """
    is_csv = file_format(path) in CSV_SUFFIXES
    chunks = iter([tables] if isinstance(tables, pd.DataFrame) else tables)
    first = next(chunks, None)
    if first is None:
        raise TrackFileError("nothing to write", where=str(path), expected="at least one table of tracks")
    head = pa.Table.from_pandas(first, preserve_index=False).replace_schema_metadata()
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
