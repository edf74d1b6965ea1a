"""Search for plain ids in texts and tables.

An id of fewer than `DISTINCTIVE` characters, such as 7, occurs by chance everywhere. Such an id is searched only in the
columns of ids, and in texts only where a name like sensor_id stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.lake.tables import OPERATOR_ID
from reentry.schema import SENSOR_ID

DISTINCTIVE: Final = 6
"""Number of characters from which an id is searched everywhere."""

_ID_COLUMNS: Final = (SENSOR_ID.name, OPERATOR_ID)
_OTHER_NUMBERS: Final = ("row", "track_id", "bucket", "model_version", "schema_version")
"""Columns of numbers that count things, which may equal an id by chance."""
_WORD: Final = re.compile(rb"\d+\.\d+|[\w\x80-\xff]+")
_NAMED: Final = re.compile(rb"(?:sensor|operator)(?:[_ -]?id)?\W{1,4}([\w\x80-\xff]+)", re.IGNORECASE)
_WHOLE: Final = re.compile(r"[+-]?\d+")


class IdSearch:
    """Search for some plain ids. No result contains an id."""

    def __init__(self, ids: Iterable[str]) -> None:
        names = {name.strip() for name in ids} - {""}
        long = {name for name in names if len(name) >= DISTINCTIVE}
        self._all_words = {name.encode() for name in names}
        self._words = {word for word in map(str.encode, long) if _WORD.fullmatch(word)}
        self._phrases = sorted({name.encode() for name in long} - self._words)
        self._numbers = sorted(int(name) for name in names if _WHOLE.fullmatch(name) and abs(int(name)) < 2**63)
        self._long_numbers = [number for number in self._numbers if len(str(abs(number))) >= DISTINCTIVE]

    def in_text(self, text: bytes) -> int:
        """Return how many occurrences a text has."""
        found = sum(_whole(word) in self._words for word in _WORD.findall(text)) if self._words else 0
        found += sum(text.count(phrase) for phrase in self._phrases)
        return found + sum(word in self._all_words - self._words for word in _NAMED.findall(text))

    def in_table(self, rows: pa.Table) -> dict[str, int]:
        """Return how many cells of each column hold an id; columns without one are missing."""
        counts = {name: self._in_column(name, rows[name]) for name in rows.column_names}
        return {name: count for name, count in counts.items() if count}

    def _in_column(self, name: str, column: pa.ChunkedArray) -> int:
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            if name in _OTHER_NUMBERS:
                return 0
            numbers = self._numbers if name in _ID_COLUMNS else self._long_numbers
            wide = column.cast(pa.float64() if pa.types.is_floating(column.type) else pa.int64())
            return pc.sum(pc.is_in(wide, pa.array(numbers, wide.type, safe=False))).as_py() or 0
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = pa.chunked_array([pa.array([str(value) for value in column.to_pylist()], pa.string())])
        # Equal texts, such as the name of a file, are searched once.
        counts = pc.value_counts(column.combine_chunks()).to_pylist()
        return sum(
            each["counts"]
            for each in counts
            if each["values"] is not None
            and (self.in_text(each["values"].encode()) or (name in _ID_COLUMNS and self._is_one(each["values"])))
        )

    def _is_one(self, text: str) -> bool:
        return _whole(text.strip().encode()) in self._all_words


def _whole(word: bytes) -> bytes:
    """Return a decimal fraction such as 4711001.0 as the whole number that it is, and other words unchanged."""
    whole, point, fraction = word.partition(b".")
    return whole if point and not fraction.strip(b"0") else word
