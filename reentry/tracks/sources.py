"""CSV and Parquet files of tracks, read as chunks of rows in bounded memory.

Row numbers start from 0 at the first row below the header. Blank lines of a CSV file are not counted.
"""

from __future__ import annotations

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from reentry.errors import TrackFileError
from reentry.schema import REENTRY_PHASE, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
from reentry.tracks.csv_records import Block, CsvRecords
from reentry.tracks.formats import CSV_SUFFIXES, check_columns, file_format
from reentry.tracks.parquet import batches, open_parquet, parquet_errors, parquet_texts

CHUNK_ROWS: Final = 262_144
FIELDS: Final = "number of fields"
"""Column of a CSV chunk that is NaN, or "9 instead of 8" for a row with the wrong number of fields."""

_IDS: Final = (TRACK_ID.name, SENSOR_ID.name)
_WRONG_DELIMITERS: Final = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


class Source(ABC):
    """An open file of tracks whose columns have been checked."""

    def __init__(self, path: Path, columns: tuple[str, ...], size: int) -> None:
        self.path = path
        self.columns = columns
        """All columns, in file order."""
        self.size = size
        """Approximate memory that the rows take, in bytes."""

    @property
    def track_columns(self) -> list[str]:
        """Columns of the file that belong to a track, in schema order."""
        return [c.name for c in (*TRACK_COLUMNS, REENTRY_PHASE) if c.name in self.columns]

    @abstractmethod
    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield the `track_columns` of all rows in file order, indexed by row number.

        Id columns are categorical text. The other columns are numeric, or objects if a cell is not a number. A CSV
        chunk also has the column `FIELDS` if one of its rows has the wrong number of fields.
        """


class CsvSource(Source):
    """A comma-separated CSV file with a header."""

    def __init__(self, path: Path) -> None:
        self._records = CsvRecords(path)
        _check_delimiter(path, self._records)
        check_columns(path, self._records.names)
        super().__init__(path, self._records.names, path.stat().st_size)

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield chunks of rows, see `Source.chunks`."""
        rows = _Rows(self._records.blocks(), width=len(self.columns))
        positions = {self.columns.index(name): name for name in self.track_columns}
        types: dict[Hashable, str] = {position: "category" for position, name in positions.items() if name in _IDS}
        read = 0
        try:
            with pd.read_csv(
                rows,
                header=None,
                names=list(range(len(self.columns))),
                usecols=list(positions),
                index_col=False,
                dtype=types,
                float_precision="round_trip",
                low_memory=False,
                chunksize=CHUNK_ROWS,
            ) as chunks:
                for chunk in chunks:
                    read += len(chunk)
                    chunk.columns = pd.Index([positions[position] for position in chunk.columns])
                    misfits = rows.misfits_before(read)
                    yield chunk.assign(**{FIELDS: pd.Series(misfits)}) if misfits else chunk
        except pd.errors.ParserError as error:
            raise TrackFileError("not readable as CSV", where=str(self.path), got=str(error)) from error
        if read != rows.count:
            raise TrackFileError(
                "not readable as CSV", where=str(self.path), expected=f"{rows.count} rows", got=f"{read}"
            )


class _Rows(io.RawIOBase):
    """File-like object through which pandas reads blocks of rows as UTF-8; invalid bytes are replaced."""

    mode = "r"  # keeps pandas from decoding and encoding the bytes again

    def __init__(self, blocks: Iterator[Block], width: int) -> None:
        self._blocks = blocks
        self._width = width
        self._misfits: dict[int, str] = {}
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, _size: int | None = -1) -> bytes:
        """Return the next block, whatever its size."""
        block = next(self._blocks, None)
        if block is None:
            return b""
        for row, fields in block.misfits.items():
            self._misfits[self.count + row] = f"{fields} instead of {self._width}"
        self.count += block.rows
        if block.parsed.isascii():
            return block.parsed
        return block.parsed.decode("utf-8", errors="replace").encode()

    def misfits_before(self, row: int) -> dict[int, str]:
        """Remove and return the wrong numbers of fields of rows before `row`, by row number."""
        numbers = [number for number in self._misfits if number < row]
        return {number: self._misfits.pop(number) for number in numbers}


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        with open_parquet(path) as file:
            columns = tuple(file.schema_arrow.names)
            check_columns(path, columns)
            for name in (c.name for c in (*TRACK_COLUMNS, REENTRY_PHASE) if c.name in columns):
                _check_type(path, file.schema_arrow.field(name))
            super().__init__(path, columns, file.metadata.num_rows * 8 * len(TRACK_COLUMNS))

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield chunks of rows, see `Source.chunks`."""
        first = 0
        for batch in batches(self.path, columns=self.track_columns, rows=CHUNK_ROWS):
            with parquet_errors(self.path):
                cells = {name: _series(name, batch.column(name)) for name in self.track_columns}
            chunk = pd.DataFrame(cells, copy=False)
            chunk.index = pd.RangeIndex(first, first + batch.num_rows)
            yield chunk
            first += batch.num_rows


def row_texts(path: Path) -> Iterator[str]:
    """Yield the header and then each row of a file as CSV text without a line end, decoded as latin-1.

    Raises:
        TrackFileError: The file cannot be read.
    """
    return CsvRecords(path).texts() if file_format(path) in CSV_SUFFIXES else parquet_texts(path)


def open_source(path: Path) -> Source:
    """Open a CSV or Parquet file, according to its suffix, and check its columns.

    Raises:
        TrackFileError: The file cannot be read, is empty, is not CSV or Parquet, has another delimiter than a comma, or
            lacks a column.
    """
    suffix = file_format(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise TrackFileError("no such file", where=str(path)) from None
    except OSError as error:  # for example a loop of symbolic links
        raise TrackFileError("cannot be read", where=str(path), got=error.strerror) from error
    if not stat.S_ISREG(status.st_mode):
        raise TrackFileError("not a file", where=str(path), expected="a CSV or Parquet file")
    if not os.access(path, os.R_OK):
        raise TrackFileError("permission denied", where=str(path), fix="grant read permission")
    if status.st_size == 0:
        raise TrackFileError("empty file", where=str(path), expected="a header and rows of tracks")
    return CsvSource(path) if suffix in CSV_SUFFIXES else ParquetSource(path)


def _check_delimiter(path: Path, records: CsvRecords) -> None:
    for delimiter, description in _WRONG_DELIMITERS.items():
        if len(records.names) <= 1 and delimiter in records.header:
            raise TrackFileError(
                "wrong delimiter", where=str(path), expected="commas between the columns", got=description
            )


def _check_type(path: Path, column: pa.Field) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    label = pa.types.is_boolean(kind) and column.name == REENTRY_PHASE.name
    if not (numeric or text or label or pa.types.is_null(kind)):
        raise TrackFileError(
            f"column {column.name} is not numeric", where=str(path), expected="numbers", got=f"the type {kind}"
        )


def _series(name: str, values: pa.Array) -> pd.Series[float]:
    """Convert one column of a batch to the form that `Source.chunks` documents."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if name in _IDS:
        series = values.cast(pa.string()).dictionary_encode().to_pandas()
    elif pa.types.is_decimal(values.type):
        series = values.cast(pa.float64()).to_pandas()
    else:
        series = values.to_pandas()
    return series  # type: ignore[no-any-return]  # pyarrow has no types
