"""Files of tracks as chunks of rows: CSV and Parquet, opened, their columns checked, read in bounded memory.

Row numbers count the rows below the header from 0; blank lines of a CSV file are no rows.
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
from reentry.tracks.columns import check_columns
from reentry.tracks.formats import CSV_SUFFIXES, file_format
from reentry.tracks.parquet import batches, open_parquet, parquet_errors, parquet_texts
from reentry.tracks.records import Block, CsvRecords

CHUNK_ROWS: Final = 262_144
FIELDS: Final = "number of fields"
"""Column of a CSV chunk: the number of fields, in words, of a row that does not fit the header; NaN of the others."""

_IDS: Final = (TRACK_ID.name, SENSOR_ID.name)
_WRONG_DELIMITERS: Final = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


class Source(ABC):
    """A file of tracks whose columns are known."""

    def __init__(self, path: Path, columns: tuple[str, ...], size: int) -> None:
        self.path = path
        self.columns = columns
        """All columns of the file, in its order."""
        self.size = size
        """Bytes: about what the rows take in memory."""

    @property
    def track_columns(self) -> list[str]:
        """The columns of the file that a track is made of, in the schema's order."""
        return [c.name for c in (*TRACK_COLUMNS, REENTRY_PHASE) if c.name in self.columns]

    @abstractmethod
    def chunks(self) -> Iterator[pd.DataFrame]:
        """`track_columns` of all rows in order, indexed by row number.

        The ids are categories of text; the other columns are numbers, or objects where some cell is none. A chunk of
        CSV whose rows do not all fit the header has `FIELDS`, too.
        """


class CsvSource(Source):
    """A CSV file with a header, separated by commas."""

    def __init__(self, path: Path) -> None:
        self._records = CsvRecords(path)
        _check_delimiter(path, self._records)
        check_columns(path, self._records.names)
        super().__init__(path, self._records.names, path.stat().st_size)

    def chunks(self) -> Iterator[pd.DataFrame]:
        """See `Source.chunks`."""
        rows = _Rows(self._records.blocks(), width=len(self.columns))
        if rows.empty:
            return
        positions = {self.columns.index(name): name for name in self.track_columns}
        types: dict[Hashable, str] = {place: "category" for place, name in positions.items() if name in _IDS}
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
                    chunk.columns = pd.Index([positions[place] for place in chunk.columns])
                    misfits = rows.misfits_before(read)
                    yield chunk.assign(**{FIELDS: pd.Series(misfits)}) if misfits else chunk
        except pd.errors.ParserError as error:
            raise TrackFileError("not readable as CSV", where=str(self.path), got=str(error)) from error
        if read != rows.count:
            raise TrackFileError(
                "not readable as CSV", where=str(self.path), expected=f"{rows.count} rows", got=f"{read}"
            )


class _Rows(io.RawIOBase):
    """Blocks of rows as the file that pandas reads, in UTF-8 whatever their bytes are."""

    mode = "r"  # pandas takes the bytes as they come, instead of decoding them and encoding them again

    def __init__(self, blocks: Iterator[Block], width: int) -> None:
        self._blocks = blocks
        self._width = width
        self._first = next(blocks, None)
        self._misfits: dict[int, str] = {}
        self.empty = self._first is None
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, _size: int | None = -1) -> bytes:
        """Return the next block, whatever its size."""
        block, self._first = self._first or next(self._blocks, None), None
        if block is None:
            return b""
        for row, fields in block.misfits.items():
            self._misfits[self.count + row] = f"{fields} instead of {self._width}"
        self.count += block.rows
        if block.parsed.isascii():
            return block.parsed
        return block.parsed.decode("utf-8", errors="replace").encode()

    def misfits_before(self, row: int) -> dict[int, str]:
        """Take out the number of fields of each row before `row` that does not fit the header."""
        taken = {number: fields for number, fields in self._misfits.items() if number < row}
        for number in taken:
            del self._misfits[number]
        return taken


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
        """See `Source.chunks`."""
        first = 0
        for batch in batches(self.path, columns=self.track_columns, rows=CHUNK_ROWS):
            with parquet_errors(self.path):
                cells = {name: _series(name, batch.column(name)) for name in self.track_columns}
            chunk = pd.DataFrame(cells, copy=False)
            chunk.index = pd.RangeIndex(first, first + batch.num_rows)
            yield chunk
            first += batch.num_rows


def row_texts(path: Path) -> Iterator[str]:
    """Yield the header of a file, then its rows as CSV text without line ends; the bytes of the text as latin-1.

    Raises:
        TrackFileError: the file cannot be read.
    """
    return CsvRecords(path).texts() if file_format(path) in CSV_SUFFIXES else parquet_texts(path)


def open_source(path: Path) -> Source:
    """The file at `path`, CSV or Parquet by its suffix.

    Raises:
        TrackFileError: no such file, not a file, empty, another kind, binary, another delimiter, without a column.
    """
    suffix = file_format(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise TrackFileError("no such file", where=str(path)) from None
    except OSError as error:  # such as a loop of symbolic links
        raise TrackFileError("cannot be read", where=str(path), got=error.strerror) from error
    if not stat.S_ISREG(status.st_mode):
        raise TrackFileError("not a file", where=str(path), expected="a CSV or Parquet file")
    if not os.access(path, os.R_OK):
        raise TrackFileError("may not be read", where=str(path), fix="its permissions")
    if status.st_size == 0:
        raise TrackFileError("empty file", where=str(path), expected="a header and rows of tracks")
    return CsvSource(path) if suffix in CSV_SUFFIXES else ParquetSource(path)


def _check_delimiter(path: Path, records: CsvRecords) -> None:
    for delimiter, its_name in _WRONG_DELIMITERS.items():
        if len(records.names) <= 1 and delimiter in records.header:
            raise TrackFileError(
                "wrong delimiter", where=str(path), expected="commas between the columns", got=its_name
            )


def _check_type(path: Path, column: pa.Field) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_label = pa.types.is_boolean(kind) and column.name == REENTRY_PHASE.name
    if not (is_number or is_text or is_label or pa.types.is_null(kind)):
        raise TrackFileError(
            f"column {column.name} holds no numbers", where=str(path), expected="numbers", got=f"the type {kind}"
        )


def _series(name: str, values: pa.Array) -> pd.Series[float]:
    """One column of a batch in the form that `Source.chunks` gives."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if name in _IDS:
        series = values.cast(pa.string()).dictionary_encode().to_pandas()
    elif pa.types.is_decimal(values.type):
        series = values.cast(pa.float64()).to_pandas()
    else:
        series = values.to_pandas()
    return series  # type: ignore[no-any-return]  # pyarrow has no types
