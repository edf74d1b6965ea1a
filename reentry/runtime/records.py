"""Records of an append-only file: a crash leaves at most an incomplete last record, which is detected.

A record is the length and the CRC-32 of its body (little-endian, 4 bytes each), then the body.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, Final

_HEAD: Final = struct.Struct("<II")


def encode_record(body: bytes) -> bytes:
    """Return a body as a record."""
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def read_record(file: BinaryIO) -> bytes | None:
    """Return the body at the file's offset; None if the record is incomplete, corrupt or missing."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack(head)
    body = file.read(length)
    return body if len(body) == length and zlib.crc32(body) == checksum else None
