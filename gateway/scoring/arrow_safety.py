"""Checks of Arrow and Parquet bodies before they are decoded, so that a small body cannot claim gigabytes of memory.

Decoders allocate what a body declares: the length of a compressed buffer, or the size of a page. The declared sizes are
therefore read first, from the flatbuffers of the Arrow messages and the Thrift headers of the Parquet pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from gateway.problems import Problem

LARGEST_DECODED: Final = 2**28
"""Bytes that the pages of a Parquet body may declare, all columns together."""

_RECORD_BATCH, _DICTIONARY_BATCH = "record batch", "dictionary"
_LENGTH, _COMPRESSION, _DICTIONARY_DATA = 0, 3, 1  # numbers of fields in Arrow's Message.fbs
_HEADER: Final = 2
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


def check_parquet(body: bytes, *, most_rows: int) -> None:
    """Check the footer and the page headers of a Parquet file.

    Raises:
        Problem: the file is damaged, or declares too many rows or bytes.
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
        decoded = 0
        for declared in _page_sizes(body, metadata):
            decoded += declared
            if declared < 0 or decoded > LARGEST_DECODED:
                raise Problem(
                    "body-too-large",
                    "the decoded pages are too large",
                    where="body",
                    expected=f"at most {LARGEST_DECODED:,} bytes",
                    fix="send fewer tracks at once, or create a job: POST /v1/jobs",
                )
    except _UNREADABLE as error:
        raise Problem("invalid-request", f"not a Parquet file: {error}"[:300], where="body") from error


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


def _page_sizes(body: bytes, metadata: Any) -> Iterator[int]:
    """Yield the decoded size that each page declares, in bytes."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                starts.append(chunk.dictionary_page_offset)
            place = min(starts)
            end = place + chunk.total_compressed_size
            if not 4 <= place <= end <= len(body):
                raise ValueError("a column chunk lies outside the file")
            while place < end:
                decoded, encoded, place = _page_header(body, place)
                yield decoded
                if encoded < 0:
                    raise ValueError("a page has a negative size")
                place += encoded


def _page_header(data: bytes, place: int) -> tuple[int, int, int]:
    """Read a PageHeader in Thrift's compact protocol.

    Returns:
        Decoded size of the page, encoded size, both in bytes, and the place behind the header.
    """
    sizes = {2: -1, 3: -1}
    number = 0
    while (head := data[place]) != 0:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            zigzag, place = _varint(data, place)
            number = (zigzag >> 1) ^ -(zigzag & 1)
        if number in sizes and head & 15 == _I32:
            zigzag, place = _varint(data, place)
            sizes[number] = (zigzag >> 1) ^ -(zigzag & 1)
        else:
            place = _skipped(data, place, head & 15, 0)
    return sizes[2], sizes[3], place + 1


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
        while (head := data[place]) != 0:
            place += 1
            if not head >> 4:
                place = _varint(data, place)[1]
            place = _skipped(data, place, head & 15, depth + 1)
        return place + 1
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
