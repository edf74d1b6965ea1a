"""Reading a Parquet file in batches, with the error messages of this program, and converting its rows to CSV text."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from reentry.errors import TrackFileError
from reentry.schema import REENTRY_PHASE, TRACK_COLUMNS
from reentry.tracks.csv_numbers import Numbers
from reentry.tracks.csv_records import split_records
from reentry.tracks.text_blocks import Block

_TEXT_BATCH_ROWS: Final = 65_536


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Convert the exceptions that pyarrow raises for damaged or unsupported files into a TrackFileError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TrackFileError(
            "not readable as Parquet: text is not UTF-8", where=str(path), got=repr(error.object[:80])
        ) from error
    # pyarrow raises ArrowException for most faults, and the other types for damaged metadata.
    except (pa.ArrowException, OSError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        raise TrackFileError(
            "not readable as Parquet", where=str(path), got=str(error)[:300] or type(error).__name__
        ) from error


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file; its pages are verified if the file has checksums.

    Raises:
        TrackFileError: The file is not readable as Parquet.
    """
    with parquet_errors(path):
        # pre_buffer=True would keep the whole file in memory.
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
        _ = file.schema_arrow.names  # raises an error here if a name is not UTF-8
        return file


def batches(path: Path, *, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches of at most `rows`, with all columns if `columns` is None.

    Raises:
        TrackFileError: The file is not readable as Parquet.
    """
    with open_parquet(path) as file, parquet_errors(path):
        yield from file.iter_batches(batch_size=rows, columns=columns)


def parquet_numbers(batch: pa.RecordBatch, columns: Iterable[str], *, ids: Collection[str]) -> Numbers | None:
    """Convert columns of a batch to numbers, or return None if one is not numeric or an id is missing or not an int64.

    Args:
        batch: Rows of the file.
        columns: Names of the columns to convert.
        ids: Names of the columns of ids.
    """
    numbers = {}
    for name in columns:
        column = batch.column(name)
        kind = column.type
        if name in ids:
            if not pa.types.is_integer(kind) or pa.types.is_uint64(kind) or column.null_count:
                return None
            numbers[name] = column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            numbers[name] = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        else:
            return None
    return numbers


def parquet_blocks(path: Path) -> Iterator[Block]:
    """Yield the rows as CSV text in blocks.

    Nested values become JSON, and maps become lists of pairs. Binary values become hexadecimal digits. Times in an
    unknown time zone become UTC.

    Raises:
        TrackFileError: The file is not readable as Parquet.
    """
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    for batch in batches(path, columns=None, rows=_TEXT_BATCH_ROWS):
        with parquet_errors(path):
            columns = [_writable(column) for column in batch.columns]
            table = pa.RecordBatch.from_arrays(columns, names=list(map(str, range(len(columns)))))
            buffer = pa.BufferOutputStream()
            pyarrow.csv.write_csv(table, buffer, write_options=options)
        text = buffer.getvalue().to_pybytes()
        texts = list(split_records(text)) if b'"' in text else None  # only text with quotes has line ends within a row
        yield Block(rows=batch.num_rows, parsed=text, texts=texts, misfits={})


def check_writable_as_text(path: Path) -> None:
    """Check that `parquet_blocks` can write every row. The columns of tracks must have been read before.

    Raises:
        TrackFileError: A column is not readable, or cannot be written.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
    known = {column.name for column in (*TRACK_COLUMNS, REENTRY_PHASE)}
    if not all(field.name in known and _is_plain(field.type) for field in schema):
        deque(parquet_blocks(path), maxlen=0)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether pyarrow writes every value of a type as CSV."""
    return any(check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean))


def _writable(column: pa.Array) -> pa.Array:
    """Convert a column to a type that pyarrow can write as CSV."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _writable(column.storage)
    if pa.types.is_dictionary(kind):
        return _writable(column.dictionary_decode())
    if pa.types.is_nested(kind):
        cells = [None if cell is None else json.dumps(cell, ensure_ascii=False) for cell in _cells(column)]
        return pa.array(cells, pa.large_string())
    if _is_binary(kind):
        return pa.array(_cells(column), pa.large_string())
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_timestamp(kind) and kind.tz is not None and not _is_known_zone(kind.tz):
        return column.cast(pa.timestamp(kind.unit, "UTC"))
    return column


def _cells(array: pa.Array) -> list[Any]:
    """Return the cells as values that JSON can hold; a missing cell is None."""
    array = array.storage if isinstance(array.type, pa.BaseExtensionType) else array
    kind = array.type
    if pa.types.is_struct(kind):
        fields = [_cells(field) for field in array.flatten()]
        names = [kind.field(i).name for i in range(kind.num_fields)]
        as_object = dict if len(set(names)) == len(names) else list
        return [
            as_object(zip(names, row, strict=True)) if valid else None
            for *row, valid in zip(*fields, array.is_valid().to_pylist(), strict=True)
        ]
    if pa.types.is_map(kind):
        return [
            list(zip(*map(_cells, cell.values.flatten()), strict=True)) if cell.is_valid else None for cell in array
        ]
    if pa.types.is_nested(kind):
        return [_cells(cell.values) if cell.is_valid else None for cell in array]
    if pa.types.is_dictionary(kind):
        return _cells(array.dictionary_decode())
    if _is_binary(kind):
        return [None if cell is None else cell.hex() for cell in array.to_pylist()]
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return array.to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types
    texts: list[Any] = _writable(array).cast(pa.string()).to_pylist()
    if pa.types.is_floating(kind):
        return [float(text) if text is not None and math.isfinite(float(text)) else text for text in texts]
    return texts


def _is_binary(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


@cache
def _is_known_zone(zone: str) -> bool:
    """Whether the time zone database of the system, or pyarrow itself, contains the zone."""
    try:
        pa.array([0], pa.timestamp("s", zone)).cast(pa.string())
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True
