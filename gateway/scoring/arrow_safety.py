"""Checks of Arrow and Parquet bodies before they are decoded, so that a small body cannot claim gigabytes of memory.

Decoders allocate what a body declares: the length of a compressed buffer, or the size of a page. The declared sizes are
therefore read first, from the flatbuffers of the Arrow messages and the Thrift headers of the Parquet pages.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet

from gateway.problems import Problem

LARGEST_DECODED: Final = 2**27
"""Bytes that the pages of a Parquet body may declare, and that the text of any body may take; all columns together."""

_RECORD_BATCH, _DICTIONARY_BATCH = "record batch", "dictionary"
_LENGTH, _COMPRESSION, _DICTIONARY_DATA = 0, 3, 1  # numbers of fields in Arrow's Message.fbs
_HEADER: Final = 2
_LARGEST_FIXED: Final = 32
"""Bytes of the largest value of fixed size: a decimal with 256 bits."""
_PHYSICAL_TYPES: Final = ("INT32", "INT64", "FLOAT", "DOUBLE", "FIXED_LEN_BYTE_ARRAY")
_TEXT: Final = "BYTE_ARRAY"
_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8  # numbers of encodings in parquet.thrift
_UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, LookupError, struct.error, MemoryError, RecursionError)


def check_arrow_stream(body: bytes, *, most_rows: int) -> None:
    """Check the messages of an Arrow IPC stream.

    Raises:
        Problem: a message is damaged or compressed, or there are too many rows.
    """
    rows = 0
    try:
        for message in pyarrow.ipc.MessageReader.open_stream(pa.py_buffer(body)):
            if message.type not in (_RECORD_BATCH, _DICTIONARY_BATCH):
                continue
            metadata = message.metadata.to_pybytes()
            table = _followed(metadata, _field(metadata, struct.unpack_from("<I", metadata)[0], _HEADER))
            if message.type == _DICTIONARY_BATCH:
                table = _followed(metadata, _field(metadata, table, _DICTIONARY_DATA))
            if _field(metadata, table, _COMPRESSION):
                raise Problem(
                    "unsupported-media-type",
                    "the buffers of the Arrow stream are compressed",
                    where="body",
                    expected="an uncompressed Arrow stream",
                    fix="write the stream without compression, which is the default of pyarrow and polars",
                )
            place = _field(metadata, table, _LENGTH)
            length = struct.unpack_from("<q", metadata, place)[0] if place else 0
            if message.type == _RECORD_BATCH:
                rows += length
            if not 0 <= length <= most_rows or rows > most_rows:
                raise Problem(
                    "body-too-large",
                    "too many rows for one request",
                    where="body",
                    expected=f"at most {most_rows:,} rows",
                    got=f"{max(rows, length):,} rows",
                    fix="create a job: POST /v1/jobs",
                )
    except _UNREADABLE as error:
        raise Problem("invalid-request", f"not an Arrow stream: {error}"[:300], where="body") from error


def check_parquet(body: bytes, *, most_rows: int, columns: Collection[str]) -> None:
    """Check the footer and the page headers of a Parquet file.

    Args:
        body: the file.
        most_rows: largest number of rows.
        columns: names of the columns that will be read.

    Raises:
        Problem: the file is damaged, declares too many rows or bytes, or has a column that is not numeric.
    """
    try:
        metadata = pyarrow.parquet.read_metadata(pa.BufferReader(body))
        if not 0 <= metadata.num_rows <= most_rows:
            raise Problem(
                "body-too-large",
                "too many rows for one request",
                where="body",
                expected=f"at most {most_rows:,} rows",
                got=f"{metadata.num_rows:,} rows",
                fix="create a job: POST /v1/jobs",
            )
        for number in range(metadata.num_columns):
            _check_column(metadata.schema.column(number), columns)
        decoded = 0
        for declared in _page_sizes(body, metadata, columns):
            decoded += declared
            if declared < 0 or decoded > LARGEST_DECODED:
                raise _too_large("pages")
    except _UNREADABLE as error:
        raise Problem("invalid-request", f"not a Parquet file: {error}"[:300], where="body") from error


def text_bytes(batch: pa.RecordBatch, columns: Collection[str]) -> int:
    """Return the bytes that the text of a batch takes as one string for each cell, and the dictionaries besides.

    A cell of a dictionary, or of a column of views, takes a few bytes, whatever the length of its text.
    """
    total = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name not in columns or pa.types.is_primitive(column.type):
            continue
        if pa.types.is_dictionary(column.type):
            lengths = _lengths(column.dictionary)
            total += int(lengths.sum()) + int(lengths[column.indices.drop_null().to_numpy()].sum())
        else:
            total += int(_lengths(column).sum())
    return total


def check_text(total: int) -> None:
    """Check a sum of `text_bytes`.

    Raises:
        Problem: the text is too large.
    """
    if total > LARGEST_DECODED:
        raise _too_large("texts")


def _lengths(values: pa.Array) -> npt.NDArray[np.int64]:
    """Return the bytes of each text; 0 for other values."""
    kind = values.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        # A view has 16 bytes, the first four of which are the length.
        views = np.frombuffer(values.buffers()[1], np.int32)[::4][values.offset : values.offset + len(values)]
        return np.where(values.is_valid().to_numpy(zero_copy_only=False), views, 0).astype(np.int64)
    if any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)):
        return pc.binary_length(values).fill_null(0).to_numpy().astype(np.int64)  # type: ignore[no-any-return]
    return np.zeros(len(values), np.int64)


def _too_large(what: str) -> Problem:
    return Problem(
        "body-too-large",
        f"the decoded {what} are too large",
        where="body",
        expected=f"at most {LARGEST_DECODED:,} bytes",
        fix="send numbers instead of text and fewer tracks at once, or create a job: POST /v1/jobs",
    )


def _check_column(column: Any, columns: Collection[str]) -> None:
    """Check a column of a Parquet file. One that is not read may have any type."""
    name = column.path.partition(".")[0]
    if name not in columns:
        return
    is_flat = column.path == name and column.max_repetition_level == 0
    kind = column.physical_type
    is_number = kind in _PHYSICAL_TYPES and (kind != "FIXED_LEN_BYTE_ARRAY" or 0 < column.length <= _LARGEST_FIXED)
    # A decimal of variable size cannot be read as a dictionary, which bounds the memory of text.
    is_text = kind == _TEXT and column.logical_type.type != "DECIMAL" and column.converted_type != "DECIMAL"
    if not (is_flat and (is_number or is_text)):
        raise Problem(
            "invalid-tracks",
            f"column {name} is not numeric",
            where="body",
            expected="one number in each row: an integer, a float, or a decimal of fixed size",
            got=f"the type {kind} at {column.path[:100]}",
        )


def _field(data: bytes, table: int, number: int) -> int:
    """Return the place of a field of a flatbuffers table, or 0 if the table lacks it."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0 or 4 + 2 * number + 2 > struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _followed(data: bytes, place: int) -> int:
    """Return the place that an offset of a flatbuffers table points to."""
    if not place:
        raise ValueError("a header is missing")
    return int(place + struct.unpack_from("<I", data, place)[0])


def _page_sizes(body: bytes, metadata: Any, columns: Collection[str]) -> Iterator[int]:
    """Yield the decoded size that each page declares, in bytes."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            is_read = metadata.schema.column(number).path in columns
            if is_read and not chunk.num_values == row_group.num_rows <= metadata.num_rows:
                raise ValueError("a column has another number of values than rows")
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                starts.append(chunk.dictionary_page_offset)
            place = min(starts)
            end = place + chunk.total_compressed_size
            if not 4 <= place <= end <= len(body):
                raise ValueError("a column chunk lies outside the file")
            while place < end:
                header, place = _integers(body, place, 0)
                if is_read:
                    _check_page(header, row_group.num_rows, is_text=chunk.physical_type == _TEXT)
                yield _integer(header, _DECODED)
                if (encoded := _integer(header, _ENCODED)) < 0:
                    raise ValueError("a page has a negative size")
                place += encoded


_PAGE_TYPE, _DECODED, _ENCODED = 1, 2, 3
_NUMBER_OF_VALUES: Final = 1
_KINDS: Final = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
"""Field of PageHeader with the header for each type of page, and the field of the encoding in that header."""


def _check_page(header: dict[int, Any], rows: int, *, is_text: bool) -> None:
    """Check the number of values of a page, and its encoding: others than these two repeat text within a page."""
    page_type = _integer(header, _PAGE_TYPE)
    if page_type not in _KINDS:
        return  # pages of other types are not decoded
    field, encoding = _KINDS[page_type]
    inner = header.get(field)
    if not isinstance(inner, dict) or not 0 <= _integer(inner, _NUMBER_OF_VALUES) <= rows:
        raise ValueError("a page has more values than there are rows")
    if is_text and _integer(inner, encoding) not in (_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY):
        raise ValueError("text must have the encoding PLAIN or RLE_DICTIONARY")


def _integer(fields: dict[int, Any], number: int) -> int:
    """Return an integer field of a struct; -1 if it is missing."""
    value = fields.get(number, -1)
    if not isinstance(value, int):
        raise ValueError("a field of a page header has the wrong type")  # noqa: TRY004  # of the file, not of the code
    return value


def _integers(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read a struct in Thrift's compact protocol.

    Returns:
        The 32-bit integers by number of their fields, with those of a struct as another dictionary, and the place
        behind the struct.
    """
    if depth > _DEEPEST:
        raise ValueError("a header is nested too deeply")
    found: dict[int, Any] = {}
    number = 0
    while (head := data[place]) != 0:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            zigzag, place = _varint(data, place)
            number = (zigzag >> 1) ^ -(zigzag & 1)
        if head & 15 == _I32:
            zigzag, place = _varint(data, place)
            found[number] = (zigzag >> 1) ^ -(zigzag & 1)
        elif head & 15 == _STRUCT:
            found[number], place = _integers(data, place, depth + 1)
        else:
            place = _skipped(data, place, head & 15, depth)
    return found, place + 1


_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
"""Types of Thrift's compact protocol."""
_DEEPEST: Final = 16


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _skipped(data: bytes, place: int, kind: int, depth: int) -> int:
    """Return the place behind a value of a type."""
    if depth > _DEEPEST:
        raise ValueError("a header is nested too deeply")
    if kind in (_TRUE, _FALSE):
        return place
    if kind == _BYTE:
        return place + 1
    if kind in (_I16, _I32, _I64):
        return _varint(data, place)[1]
    if kind == _DOUBLE:
        return place + 8
    if kind == _BINARY:
        length, place = _varint(data, place)
        return place + length
    if kind == _STRUCT:
        return _integers(data, place, depth + 1)[1]
    if kind in (_LIST, _SET):
        head = data[place]
        place += 1
        count = head >> 4
        if count == 15:
            count, place = _varint(data, place)
        if count > len(data):
            raise ValueError("a list is longer than the file")
        for _ in range(count):
            # A boolean takes a byte inside a list.
            place = place + 1 if head & 15 in (_TRUE, _FALSE) else _skipped(data, place, head & 15, depth + 1)
        return place
    raise ValueError(f"a header has a value of the unknown type {kind}")
