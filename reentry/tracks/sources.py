"""Files of tracks as chunks of rows: CSV and Parquet, opened, their columns checked, read in bounded memory.

Row numbers count the rows below the header from 0; blank lines of a CSV file are no rows.
"""

from __future__ import annotations

import csv
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from reentry.errors import TrackFileError
from reentry.schema import REENTRY_PHASE, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
from reentry.tracks.columns import check_columns
from reentry.tracks.formats import CSV_SUFFIXES, file_format

CHUNK_ROWS: Final = 262_144
EXCESS: Final = "\x1fexcess"
"""Column of a CSV chunk that holds the first field beyond the header's; a name that no file has."""

_FIRST_BLOCK: Final = 65_536
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

        The ids are categories of text; the other columns are numbers, or objects where some cell is none. CSV adds
        `EXCESS`.
        """

    @abstractmethod
    def tables(self) -> Iterator[pd.DataFrame]:
        """All columns of all rows in order, as the file has them (CSV: text), indexed by row number."""


class CsvSource(Source):
    """A CSV file with a header, separated by commas."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _csv_header(path), path.stat().st_size)

    def chunks(self) -> Iterator[pd.DataFrame]:
        """See `Source.chunks`."""
        types: dict[Hashable, str] = {**dict.fromkeys(_IDS, "category"), EXCESS: "str"}
        with (
            self._with_excess() as file,
            pd.read_csv(
                file,
                usecols=[*self.track_columns, EXCESS],
                dtype=types,
                float_precision="round_trip",
                low_memory=False,
                chunksize=CHUNK_ROWS,
            ) as chunks,
        ):
            yield from chunks

    def tables(self) -> Iterator[pd.DataFrame]:
        """See `Source.tables`."""
        with (
            self._with_excess() as file,
            pd.read_csv(
                file,
                usecols=range(len(self.columns) + 1),
                dtype=str,
                na_filter=False,
                low_memory=False,
                chunksize=CHUNK_ROWS,
            ) as chunks,
        ):
            for table in chunks:
                yield table.iloc[:, :-1].set_axis(list(self.columns), axis="columns")

    @contextmanager
    def _with_excess(self) -> Iterator[_Headed]:
        """The file with one column more in its header, which takes what a row has too much of.

        `usecols` goes with it, though it may name all: without, pandas refuses a row that is too long.
        """
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([*self.columns, EXCESS])
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            while not file.readline().strip():
                pass
            try:
                yield _Headed(header.getvalue(), file)
            except pd.errors.ParserError as error:  # quotes that never close
                raise TrackFileError("not readable as CSV", where=str(self.path), got=str(error)) from error


class _Headed(io.TextIOBase):
    """A text file under another header."""

    mode = "r"

    def __init__(self, header: str, rest: TextIO) -> None:
        self._header = header
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        """Give the header first, then the file."""
        header, self._header = self._header, ""
        return header or self._rest.read(-1 if size is None else size)


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        with self._opened(path) as file:
            columns = tuple(file.schema_arrow.names)
            check_columns(path, columns)
            for name in (c.name for c in (*TRACK_COLUMNS, REENTRY_PHASE) if c.name in columns):
                _check_type(path, file.schema_arrow.field(name))
            super().__init__(path, columns, file.metadata.num_rows * 8 * len(TRACK_COLUMNS))

    def chunks(self) -> Iterator[pd.DataFrame]:
        """See `Source.chunks`."""
        for first, batch in self._batches(self.track_columns):
            chunk = pd.DataFrame({name: _series(name, batch.column(name)) for name in self.track_columns}, copy=False)
            chunk.index = pd.RangeIndex(first, first + batch.num_rows)
            yield chunk

    def tables(self) -> Iterator[pd.DataFrame]:
        """See `Source.tables`."""
        for first, batch in self._batches(None):
            table = batch.to_pandas()
            table.index = pd.RangeIndex(first, first + batch.num_rows)
            yield table

    def _batches(self, columns: list[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        with self._opened(self.path) as file:
            try:
                for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=columns):
                    yield first, batch
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise TrackFileError("not readable as Parquet", where=str(self.path), got=str(error)) from error

    @staticmethod
    def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
        try:
            return pyarrow.parquet.ParquetFile(path, pre_buffer=False)  # which would keep the whole file in memory
        except (pa.ArrowException, OSError) as error:
            raise TrackFileError("not readable as Parquet", where=str(path), got=str(error)) from error


def open_source(path: Path) -> Source:
    """The file at `path`, CSV or Parquet by its suffix.

    Raises:
        TrackFileError: no such file, not a file, empty, another kind, binary, another delimiter, without a column.
    """
    suffix = file_format(path)
    if not path.exists():
        raise TrackFileError("no such file", where=str(path))
    if not path.is_file():
        raise TrackFileError("not a file", where=str(path), expected="a CSV or Parquet file")
    if not os.access(path, os.R_OK):
        raise TrackFileError("may not be read", where=str(path), fix="its permissions")
    if path.stat().st_size == 0:
        raise TrackFileError("empty file", where=str(path), expected="a header and rows of tracks")
    return CsvSource(path) if suffix in CSV_SUFFIXES else ParquetSource(path)


def _csv_header(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        block = file.read(_FIRST_BLOCK)
    if b"\0" in block:
        raise TrackFileError("a binary file, or text in UTF-16", where=str(path), expected="CSV in UTF-8")
    lines = block.lstrip().splitlines()
    try:
        first = lines[0].decode("utf-8-sig") if lines else ""
    except UnicodeDecodeError as error:
        raise TrackFileError("a binary file, or not in UTF-8", where=str(path), expected="CSV in UTF-8") from error
    columns = tuple(name.strip() for name in next(csv.reader(io.StringIO(first)), []))
    for delimiter, its_name in _WRONG_DELIMITERS.items():
        if len(columns) <= 1 and delimiter in first:
            raise TrackFileError(
                "wrong delimiter", where=str(path), expected="commas between the columns", got=its_name
            )
    check_columns(path, columns)
    return columns


def _check_type(path: Path, field: pa.Field) -> None:
    kind = field.type
    if pa.types.is_temporal(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise TrackFileError(
            f"column {field.name} holds no numbers", where=str(path), expected="numbers", got=f"the type {kind}"
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
