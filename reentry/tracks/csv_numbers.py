"""Fast parsing of the lines of a CSV file whose cells are all plain numbers, as in nearly every file.

Everything else is left to the parser in `reentry.tracks.sources`, which is slower and interprets any cell. Where this
parser gives numbers, they are equal to those of the other one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from reentry.schema import SENSOR_ID, TRACK_ID
from reentry.tracks.csv_records import BYTE_ORDER_MARK
from reentry.tracks.text_blocks import ENCODING

Numbers = Mapping[str, npt.NDArray[Any]]
"""Columns of a chunk by name: float64 with NaN for a missing cell, but int64 without missing cells for the ids."""

_IDS = (TRACK_ID.name, SENSOR_ID.name)


def parse_numbers(text: bytes, *, width: int, positions: Mapping[str, int]) -> Numbers | None:
    """Parse whole lines without quotes, or return None if a line or a cell is anything but numbers.

    Args:
        text: Lines below the header; blank lines are ignored.
        width: Number of fields in each line.
        positions: Position of each column to parse.
    """
    # pyarrow reads hexadecimal integers, and ignores a byte order mark in front of the first field.
    if b"0x" in text or b"0X" in text or text.startswith(BYTE_ORDER_MARK.encode(ENCODING)):
        return None
    types = {str(position): pa.int64() if name in _IDS else pa.float64() for name, position in positions.items()}
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(map(str, range(width))), block_size=len(text) + 1, use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[""], check_utf8=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    numbers = {}
    for name, position in positions.items():
        column = table.column(str(position))
        if name in _IDS and column.null_count:
            return None
        numbers[name] = column.to_numpy()
        # A text such as "nan" or "inf" is a number for pyarrow.
        if name not in _IDS and np.isfinite(numbers[name]).sum() + column.null_count < len(column):
            return None
    return numbers
