"""CSV and Parquet files of tracks, and tables in memory, read as chunks of rows in bounded memory.

Row numbers start from 0 at the first row below the header. Blank lines of a CSV file are not counted.
"""

from __future__ import annotations

import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from reentry.errors import TrackFileError
from reentry.runtime.ahead import one_ahead
from reentry.schema import REENTRY_PHASE, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
from reentry.tracks.csv_numbers import Numbers, parse_numbers
from reentry.tracks.csv_records import CsvRecords, csv_line
from reentry.tracks.fingerprint import fingerprint, start_fingerprint
from reentry.tracks.formats import CSV_SUFFIXES, check_columns, file_format
from reentry.tracks.parquet import batches, open_parquet, parquet_blocks, parquet_errors, parquet_numbers
from reentry.tracks.text_blocks import ENCODING, Block, Lines

CHUNK_ROWS: Final = 262_144
"""Number of rows in a chunk of a Parquet file. A chunk of a CSV file is a block of `csv_records`."""
FIELDS: Final = "number of fields"
"""Column of a CSV chunk that is NaN, or "9 instead of 8" for a row with the wrong number of fields."""

_IDS: Final = (TRACK_ID.name, SENSOR_ID.name)
_WRONG_DELIMITERS: Final = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of a file, with the `track_columns` of its source."""

    first: int
    """Number of the first row."""
    rows: int
    """Number of rows."""
    numbers: Numbers | None
    """The columns as numbers; None if a cell is not a number, or an id is missing or not an int64."""
    cells: Callable[[], pd.DataFrame]
    """Function that parses all cells one by one, whatever they contain.

    The table is indexed by row number. Id columns are categorical text. The other columns are numeric, or objects if a
    cell is not a number. The table also has the column `FIELDS` if a row has the wrong number of fields.
    """


class Source(ABC):
    """An open file of tracks whose columns have been checked."""

    def __init__(self, path: Path, columns: tuple[str, ...], size: int) -> None:
        self.path = path
        self.columns = columns
        """All columns, in file order."""
        self.size = size
        """Approximate memory that the rows take, in bytes."""
        self.fingerprint = ""
        """`fingerprint` of the file whose chunks were read; empty before the last chunk, and for other sources."""

    @property
    def track_columns(self) -> list[str]:
        """Columns of the file that belong to a track, in schema order."""
        return [c.name for c in (*TRACK_COLUMNS, REENTRY_PHASE) if c.name in self.columns]

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield all rows in file order."""


class CsvSource(Source):
    """A comma-separated CSV file with a header."""

    def __init__(self, path: Path) -> None:
        self._records = CsvRecords(path)
        _check_delimiter(path, self._records)
        check_columns(path, self._records.names)
        super().__init__(path, self._records.names, path.stat().st_size)
        self._positions = {name: self.columns.index(name) for name in self.track_columns}

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks of rows, see `Source.chunks`."""
        digest, first = start_fingerprint(), 0
        for lines, numbers in one_ahead(self._parsed(digest.update)):
            if numbers is not None:
                rows = len(numbers[TRACK_ID.name])
                chunk = Chunk(first=first, rows=rows, numbers=numbers, cells=partial(self._cells, lines, first))
            else:
                block = self._records.split(lines)
                rows = block.rows
                chunk = Chunk(first=first, rows=rows, numbers=None, cells=partial(self._cells_of_block, block, first))
            if rows:
                yield chunk
            first += rows
        self.fingerprint = digest.hexdigest()

    def _parsed(self, seen: Callable[[bytes], object]) -> Iterator[tuple[Lines, Numbers | None]]:
        for lines in self._records.lines(seen):
            quick = lines.block is None
            yield (
                lines,
                parse_numbers(lines.text, width=len(self.columns), positions=self._positions) if quick else None,
            )

    def _cells(self, lines: Lines, first: int) -> pd.DataFrame:
        return self._cells_of_block(self._records.split(lines), first)

    def _cells_of_block(self, block: Block, first: int) -> pd.DataFrame:
        """Parse the cells of a block, see `Chunk.cells`."""
        names = {position: name for name, position in self._positions.items()}
        types: dict[Hashable, str] = {self._positions[name]: "category" for name in _IDS}
        text = block.parsed if block.parsed.isascii() else block.parsed.decode(errors="replace").encode()
        if first > 0:
            text = b"\n" + text  # pandas drops a byte order mark at the start, where it is not one of the file
        try:
            cells = pd.read_csv(
                io.BytesIO(text),
                header=None,
                names=list(range(len(self.columns))),
                usecols=list(names),
                index_col=False,
                dtype=types,
                float_precision="round_trip",
                low_memory=False,
            )
        except pd.errors.ParserError as error:
            raise TrackFileError("not readable as CSV", where=str(self.path), got=str(error)) from error
        if len(cells) != block.rows:
            raise TrackFileError(
                "not readable as CSV", where=str(self.path), expected=f"{block.rows} rows", got=f"{len(cells)}"
            )
        cells = cells.rename(columns=names)
        cells.index = pd.RangeIndex(first, first + block.rows)
        if block.misfits:
            misfits = {first + row: f"{fields} instead of {len(self.columns)}" for row, fields in block.misfits.items()}
            cells[FIELDS] = pd.Series(misfits)
        return cells


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        with open_parquet(path) as file:
            columns = tuple(file.schema_arrow.names)
            check_columns(path, columns)
            for name in (c.name for c in (*TRACK_COLUMNS, REENTRY_PHASE) if c.name in columns):
                _check_type(path, file.schema_arrow.field(name))
            super().__init__(path, columns, file.metadata.num_rows * 8 * len(TRACK_COLUMNS))

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks of rows, see `Source.chunks`."""
        # The file is hashed before it is read, so that any later change is noticed.
        found, first = fingerprint(self.path), 0
        for batch in one_ahead(batches(self.path, columns=self.track_columns, rows=CHUNK_ROWS)):
            if batch.num_rows:
                yield Chunk(
                    first=first,
                    rows=batch.num_rows,
                    numbers=parquet_numbers(batch, self.track_columns, ids=_IDS),
                    cells=partial(_cells, self.path, self.track_columns, batch, first),
                )
            first += batch.num_rows
        self.fingerprint = found


class TableSource(Source):
    """Rows of Arrow record batches in memory."""

    def __init__(self, name: str, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
        """Check the columns.

        Args:
            name: Name of the table in errors, in place of the name of a file.
            batches: Rows.
            schema: Columns of all batches.

        Raises:
            TrackFileError: A column is missing, repeated, or of a type that cannot hold numbers.
        """
        path = Path(name)
        check_columns(path, tuple(schema.names))
        super().__init__(path, tuple(schema.names), 0)
        for column in self.track_columns:
            _check_type(path, schema.field(column))
        self._batches = batches

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks of rows, see `Source.chunks`."""
        first = 0
        for batch in self._batches:
            if batch.num_rows:
                yield Chunk(
                    first=first,
                    rows=batch.num_rows,
                    numbers=parquet_numbers(batch, self.track_columns, ids=_IDS),
                    cells=partial(_cells, self.path, self.track_columns, batch, first),
                )
            first += batch.num_rows


class RowTexts:
    """The rows of a file as CSV text: unchanged for a CSV file, converted for a Parquet file."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            TrackFileError: The file cannot be read.
        """
        self._path = path
        self._records = CsvRecords(path) if file_format(path) in CSV_SUFFIXES else None
        self.fingerprint = ""
        """`fingerprint` of the file whose rows were read; empty before the last one."""
        if self._records is not None:
            self.header = self._records.header_text
            """Header as text without a line end, decoded as latin-1."""
        else:
            with open_parquet(path) as file:
                self.header = csv_line(file.schema_arrow.names).encode().decode(ENCODING)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in blocks.

        Raises:
            TrackFileError: The file cannot be read.
        """
        if self._records is not None:
            digest = start_fingerprint()
            yield from self._records.blocks(digest.update)
            self.fingerprint = digest.hexdigest()
        else:
            yield from parquet_blocks(self._path)
            self.fingerprint = fingerprint(self._path)


def row_texts(path: Path) -> Iterator[str]:
    """Yield the header and then each row of a file as CSV text without a line end, decoded as latin-1.

    Raises:
        TrackFileError: The file cannot be read.
    """
    rows = RowTexts(path)
    yield rows.header
    for block in rows.blocks():
        yield from block.row_texts()


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
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    label = pa.types.is_boolean(kind) and column.name == REENTRY_PHASE.name
    if not (text or label or pa.types.is_null(kind)):
        raise TrackFileError(
            f"column {column.name} is not numeric", where=str(path), expected="numbers", got=f"the type {kind}"
        )


def _cells(path: Path, columns: Sequence[str], batch: pa.RecordBatch, first: int) -> pd.DataFrame:
    """Convert columns of a batch to the form that `Chunk.cells` documents."""
    with parquet_errors(path):
        cells = {name: _series(name, batch.column(name)) for name in columns}
    table = pd.DataFrame(cells, copy=False)
    table.index = pd.RangeIndex(first, first + batch.num_rows)
    return table


def _series(name: str, values: pa.Array) -> pd.Series[float]:
    """Convert one column of a batch to the form that `Chunk.cells` documents."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if name in _IDS:
        series = values.cast(pa.string()).dictionary_encode().to_pandas()
    elif pa.types.is_decimal(values.type):
        series = values.cast(pa.float64()).to_pandas()
    else:
        series = values.to_pandas()
    return series  # type: ignore[no-any-return]  # pyarrow has no types
