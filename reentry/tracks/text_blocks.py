"""Rows of a file as CSV text, in blocks.

Text is handled as bytes or decoded as latin-1, which maps every byte to a character. Text in any encoding is therefore
written back unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

ENCODING: Final = "latin-1"

_NEWLINE: Final = ord("\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive rows of a CSV file, without the blank lines between them."""

    rows: int
    parsed: bytes
    """Lines for the CSV parser, each with exactly as many fields as the header."""
    texts: Sequence[str] | None
    """Unchanged text of each row without its line end; None if it equals the lines of `parsed`."""
    misfits: dict[int, int]
    """Number of fields of each row with the wrong number of fields, by row number within the block."""

    def row_texts(self) -> Sequence[str]:
        """Return the unchanged text of each row; a row with the wrong number of fields is truncated or padded."""
        return self.parsed.decode(ENCODING)[:-1].split("\n") if self.texts is None else self.texts

    def row_bytes(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Return the same texts with a newline behind each, as bytes (N,), and the position behind each row (rows,)."""
        if self.texts is None:
            characters = np.frombuffer(self.parsed, np.uint8)
            return characters, np.flatnonzero(characters == _NEWLINE) + 1
        lines = [text.encode(ENCODING) + b"\n" for text in self.texts]
        return np.frombuffer(b"".join(lines), np.uint8), np.cumsum(list(map(len, lines)), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Consecutive whole lines of a CSV file that `CsvRecords.split` splits into rows."""

    text: bytes
    """The lines; they end in `\\n`, `\\r\\n`, `\\r` or, at the end of the file, in nothing."""
    block: Block | None
    """Rows of the lines if a line contains a quote, because the end of the last row must then be searched."""
