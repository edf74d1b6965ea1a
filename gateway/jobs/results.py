"""Results of a job in other formats: CSV as stored, and converted to Parquet or an Arrow stream in bounded memory."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from gateway.scoring.bodies import PARQUET
from reentry.schema import (
    HINDSIGHT,
    PHASE,
    PROBABILITY,
    REENTRY_PHASE,
    REFINED_DEVIATION,
    REFINED_ONSET,
    TRACK_COLUMNS,
)

JSON_LINES: Final = "application/x-ndjson"

PART: Final = 2**20
"""Bytes of one part of an answer."""
_FLOAT: Final = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_INTEGER: Final = r"^\s*[+-]?\d{1,18}\s*$"

_TYPES: Final[dict[str, pa.DataType]] = {
    **{column.name: pa.from_numpy_dtype(column.dtype) for column in (*TRACK_COLUMNS, REENTRY_PHASE)},
    PROBABILITY.name: pa.float64(),
    PHASE.name: pa.int8(),
    "onset_row": pa.int64(),
    "onset_timestamp": pa.float64(),
    REFINED_ONSET.name: pa.float64(),
    REFINED_DEVIATION.name: pa.float64(),
    HINDSIGHT.name: pa.float64(),
    "rows": pa.int64(),
    "model_version": pa.int64(),
}
"""Types of the columns with numbers. All other columns are text."""


def parts(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file, and close it."""
    with file:
        while part := file.read(PART):
            yield part


def converted(file: BinaryIO, media_type: str) -> Iterator[bytes]:
    """Yield a CSV file as Parquet or as an Arrow stream, and close it.

    A cell of a column with numbers that is no number becomes null; the track of such a row was set aside. Bytes that
    are not UTF-8 become U+FFFD.

    Raises:
        pa.ArrowInvalid: a row has another number of cells than the header.
    """
    with file:
        source = _Utf8(file)
        names = [name.strip() for name in source.header()]
        numbered = [str(number) for number in range(len(names))]  # a name may be blank, or repeated
        reader = partial(
            pyarrow.csv.open_csv,
            pa.PythonFile(source, mode="r"),
            read_options=pyarrow.csv.ReadOptions(block_size=4 * PART, use_threads=False, column_names=numbered),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(numbered, pa.string()), strings_can_be_null=False
            ),
        )
        schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in names])
        sink = _Sink()
        with _writer(sink, schema, media_type) as writer:
            for batch in () if source.is_empty() else reader():
                columns = [_typed(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                yield sink.take()
        yield sink.take()


def _writer(sink: _Sink, schema: pa.Schema, media_type: str) -> Any:
    if media_type == PARQUET:
        return pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema)
    return pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema)


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return column
    pattern = _FLOAT if pa.types.is_floating(kind) else _INTEGER
    number = pc.if_else(pc.match_substring_regex(column, pattern), pc.utf8_trim_whitespace(column), None)
    return pc.cast(number, kind)


class _Utf8(io.RawIOBase):
    """CSV text without its header, in valid UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = b""

    def header(self) -> list[str]:
        """Read the header and return its cells."""
        lines = (line.decode("utf-8-sig", "replace") for line in iter(self._file.readline, b""))
        return next(csv.reader(lines), [])

    def is_empty(self) -> bool:
        """Whether no row is left."""
        self._first = self._first or self.read(PART)
        return not self._first.strip()

    def readable(self) -> bool:
        """Whether the file can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read about as many bytes."""
        if self._first:
            first, self._first = self._first, b""
            return first
        while part := self._file.read(size):
            if text := self._decoder.decode(part):
                return text.encode()
        return self._decoder.decode(b"", final=True).encode()


class _Sink(io.RawIOBase):
    """File that keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        """Whether the file can be written."""
        return True

    def write(self, part: Any) -> int:
        """Keep some bytes."""
        content = bytes(part)
        self._parts.append(content)
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._position

    def take(self) -> bytes:
        """Return what was written since the last call."""
        content = b"".join(self._parts)
        self._parts.clear()
        return content
