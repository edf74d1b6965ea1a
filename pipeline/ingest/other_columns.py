"""Columns of a landing file that are not columns of a track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from reentry.tracks.csv_records import fields_of
from reentry.tracks.formats import CSV_SUFFIXES, file_format
from reentry.tracks.parquet import parquet_errors
from reentry.tracks.sources import RowTexts
from reentry.tracks.text_blocks import ENCODING

Texts = npt.NDArray[np.object_]


def read_other_columns(path: Path, names: Sequence[str], columns: Sequence[str], rows: int) -> dict[str, Texts]:
    """Read columns as text, (N,) each; a missing cell is an empty text.

    Args:
        path: CSV or Parquet file of N rows whose track columns have been read.
        names: Columns to read.
        columns: All columns of the file, in file order.
        rows: N.
    """
    if not names:
        return {}
    if file_format(path) in CSV_SUFFIXES:
        return _from_csv(path, {name: columns.index(name) for name in names}, rows)
    with parquet_errors(path):
        table = pyarrow.parquet.read_table(path, columns=list(names), page_checksum_verification=True)
        return {name: _as_texts(table.column(name)) for name in names}


def _from_csv(path: Path, positions: dict[str, int], rows: int) -> dict[str, Texts]:
    texts = {name: np.full(rows, "", dtype=object) for name in positions}
    row = 0
    for block in RowTexts(path).blocks():
        for record in block.row_texts():
            fields = fields_of(record)
            for name, position in positions.items():
                if position < len(fields):
                    texts[name][row] = fields[position].strip().encode(ENCODING).decode(errors="replace")
            row += 1
    return texts


def _as_texts(column: Any) -> Texts:
    try:
        values = column.cast(pa.string()).to_pylist()
    except pa.ArrowException:  # lists, structs and the like
        values = [None if value is None else str(value) for value in column.to_pylist()]
    return np.array(["" if value is None else value for value in values], dtype=object)
