"""Rows of the inference log, in the form in which they wait on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec


class LogRow(msgspec.Struct, frozen=True):
    """One answered track: the columns of the table `inference_log`."""

    id: str
    account_id: str
    key_id: str
    request_id: str
    at: float
    track_id: int
    steps: int
    first_timestamp: float
    last_timestamp: float
    peak_altitude: float
    largest_probability: float
    model: str
    seconds: float
    onset_timestamp: float | None = None
    refined_onset_timestamp: float | None = None
    model_version: int | None = None
    experiment_id: str | None = None
    variant: str | None = None
    shadow: bool = False
    control_id: str | None = None
    cached: bool = False
    degraded: bool = False
    quantities: dict[str, Any] = {}  # the last field, which SQLite stores as text


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What one request adds to the log."""

    account_id: str
    at: float
    """Unix time of the answer, s."""
    refused: int
    """Number of tracks that were refused."""
    rows: list[LogRow]

    @property
    def is_request(self) -> bool:
        """Whether the entry is an answered request, and not only the tracks that a shadow scored for one."""
        return self.refused > 0 or not self.rows or any(not row.shadow for row in self.rows)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Entry).decode


def encode_entry(account_id: str, at: float, refused: int, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return an entry as bytes. The types of the rows are checked when they are decoded."""
    return _encode((account_id, at, refused, rows))


def decode_entry(body: bytes) -> Entry:
    """Return the entry of `encode_entry`.

    Raises:
        msgspec.MsgspecError: the bytes are no entry, or a value has the wrong type.
    """
    return _decode(body)
