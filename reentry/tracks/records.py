"""The records of a CSV file: its header, and its rows with as many fields as the header has.

Everything that reads a CSV file reads it through here, so that row N is the same row for the measurements, for the
results beside them and for the rows that are set aside. Quotes mean what they mean to Python's csv module.

Text is handled as bytes, or decoded as latin-1, which has a character for every byte: whatever the encoding of the
file, its text survives.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import TrackFileError

BLOCK_BYTES: Final = 2**20
LONGEST_RECORD: Final = 2**26
"""Bytes. A longer record is an error, so that a quote that is never closed does not fill the memory."""
ENCODING: Final = "latin-1"
BYTE_ORDER_MARK: Final = codecs.BOM_UTF8.decode(ENCODING)

_COMMA, _NEWLINE, _QUOTE = ord(","), ord("\n"), ord('"')
_AROUND_QUOTES = (_COMMA, _NEWLINE, _QUOTE)
_CSV_LINE_END = "\r\n"  # csv.writer quotes a field that holds one of its characters
_BLANK = " \t\r\n\v\f"

csv.field_size_limit(sys.maxsize)  # instead of 131,072 characters; it applies to the whole process


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive rows of a CSV file; blank lines are not rows."""

    rows: int
    parsed: bytes
    """The rows with exactly as many fields as the header has, as lines."""
    texts: Sequence[str] | None
    """The rows as the file has them, without line ends, or None where that is `parsed`."""
    misfits: dict[int, int]
    """Number of fields of each row that does not fit the header, by its number within the block."""

    def row_texts(self) -> Sequence[str]:
        """Return the rows as the file has them; a row that does not fit the header is cut or filled up."""
        return self.parsed.decode(ENCODING)[:-1].split("\n") if self.texts is None else self.texts


class CsvRecords:
    """A CSV file whose header is known.

    A row fits the header if it has the same number of fields. Empty fields at the end of a row, and columns without a
    name at the end of the header, do not count.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            TrackFileError: the file cannot be read, or does not begin with text in UTF-8.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._mark = BYTE_ORDER_MARK if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else ""
                file.seek(len(self._mark))
                self.header, self._start = self._read_header(file)
        except OSError as error:
            raise TrackFileError("cannot be read", where=str(path), got=error.strerror) from error
        try:
            names = fields_of(self.header.encode(ENCODING).decode("utf-8")) if self.header else []
        except UnicodeDecodeError as error:
            raise TrackFileError("a binary file, or not in UTF-8", where=str(path), expected="CSV in UTF-8") from error
        self.names = tuple(name.strip() for name in names)
        self._width = len(self.names)
        self._least = next((n for n in range(self._width, 0, -1) if self.names[n - 1]), 0)

    def texts(self) -> Iterator[str]:
        """Yield the header and then each row as the file has it, in `ENCODING`, without line ends."""
        yield self._mark + self.header
        for block in self.blocks():
            yield from block.row_texts()

    def blocks(self) -> Iterator[Block]:
        """Yield the rows.

        Raises:
            TrackFileError: the file cannot be read, holds a NUL byte, or has a quote that is never closed.
        """
        rest, final = b"", False
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                while not final:
                    data = file.read(max(BLOCK_BYTES, len(rest)))  # a long record is searched a few times, not often
                    if b"\0" in data:
                        raise self._nul(file.tell() - len(data) + data.index(b"\0"))
                    final = not data
                    text = rest + data
                    end = _end_of_last_line(text, final)
                    block, open_record = self._block(text[:end])
                    rest = open_record + text[end:]
                    if final and open_record:
                        raise self._never_closed(file.tell() - len(rest))
                    if len(rest) > LONGEST_RECORD:
                        raise self._too_long(file.tell() - len(rest))
                    if block.rows:
                        yield block
        except OSError as error:
            raise TrackFileError("cannot be read", where=str(self.path), got=error.strerror) from error

    def _read_header(self, file: BinaryIO) -> tuple[str, int]:
        """Return the first record that is not blank, and the place where the next one begins."""
        data, final = b"", False
        while not final:
            more = file.read(max(BLOCK_BYTES, len(data)))
            final = not more
            data = _without_blank_lines(data + more)
            if b"\0" in data.partition(b"\n")[0]:
                raise TrackFileError("a binary file, or text in UTF-16", where=str(self.path), expected="CSV in UTF-8")
            for record, fields in _records(data[: _end_of_last_line(data, final)]):
                if fields is not None:
                    return record.rstrip("\r\n"), file.tell() - len(data) + len(record)
            if len(data) > LONGEST_RECORD:
                raise self._too_long(file.tell() - len(data))
        if data:
            raise self._never_closed(file.tell() - len(data))
        return "", file.tell()

    def _block(self, text: bytes) -> tuple[Block, bytes]:
        """Split whole lines into rows; return a record whose quote is still open at the end, too."""
        quoted = b'"' in text
        if b"\r" in text:
            if quoted:
                return self._split(text)
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text and not text.endswith(b"\n"):
            text += b"\n"
        characters = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(characters == _NEWLINE)
        commas = np.flatnonzero(characters == _COMMA)
        if quoted:
            within = np.cumsum(characters == _QUOTE, dtype=np.uint32) & 1
            if within[ends].any() or not _simply_quoted(characters, within):
                return self._split(text)
            commas = commas[within[commas] == 0]
        if (np.diff(np.searchsorted(commas, ends), prepend=0) == self._width - 1).all():
            return Block(rows=len(ends), parsed=text, texts=None, misfits={}), b""
        return self._split(text)

    def _split(self, text: bytes) -> tuple[Block, bytes]:
        texts: list[str] = []
        parsed = io.StringIO(newline="")
        quoting = csv.writer(parsed, lineterminator=_CSV_LINE_END)
        misfits: dict[int, int] = {}
        open_record = ""
        for record, fields in _records(text):
            if fields is None:
                open_record = record
            elif len(fields) > 1 or fields[0].strip(_BLANK):
                quoted = '"' in record
                if len(fields) == self._width:
                    texts.append(record.rstrip("\r\n"))
                else:
                    if len(fields) < self._least or any(field.strip() for field in fields[self._width :]):
                        misfits[len(texts)] = len(fields)
                    fields = (fields + [""] * self._width)[: self._width]
                    texts.append(csv_line(fields) if quoted else ",".join(fields))
                if quoted:
                    quoting.writerow(fields)
                else:
                    parsed.write(texts[-1] + "\n")
        block = Block(rows=len(texts), parsed=parsed.getvalue().encode(ENCODING), texts=texts, misfits=misfits)
        return block, open_record.encode(ENCODING)

    def _nul(self, place: int) -> TrackFileError:
        return TrackFileError(
            "a NUL byte in the text",
            where=str(self.path),
            expected="CSV in UTF-8",
            got=f"a NUL in line {self._line(place):,}, at byte {place:,}",
            fix="copy or export the file again: it is damaged, or not text",
        )

    def _too_long(self, place: int) -> TrackFileError:
        return TrackFileError(
            "not readable as CSV: a row does not end",
            where=str(self.path),
            expected=f"at most {LONGEST_RECORD:,} bytes in a row",
            got=f"more in the row that begins in line {self._line(place):,}",
            fix="close the quote that opens there, or break the line",
        )

    def _never_closed(self, place: int) -> TrackFileError:
        return TrackFileError(
            "not readable as CSV: a quote is never closed",
            where=str(self.path),
            got=f"the end of the file in the row that begins in line {self._line(place):,}",
            fix="close the quote, or remove it",
        )

    def _line(self, place: int) -> int:
        """Return the number of the line, from 1, that holds the byte at `place`."""
        line, before = 1, b""
        with self.path.open("rb") as file:
            while data := file.read(min(BLOCK_BYTES, place - file.tell())):
                line += data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
                line -= before.endswith(b"\r") and data.startswith(b"\n")
                before = data
        return line


def fields_of(record: str) -> list[str]:
    """Split one record into its fields."""
    return next(csv.reader([record]))


def csv_line(fields: Sequence[str]) -> str:
    """Join fields to one record without a line end, quoted where needed."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=_CSV_LINE_END).writerow(fields)
    return buffer.getvalue().removesuffix(_CSV_LINE_END)


def split_records(text: bytes) -> Iterator[str]:
    """Yield the records of CSV text whose quotes are closed, in `ENCODING`, without line ends."""
    for record, _ in _records(text):
        yield record.rstrip("\r\n")


class _NotedLines:
    """Lines, of which `taken` were given away; `exhausted` once more were asked for than there are."""

    def __init__(self, first: str, rest: Iterator[str]) -> None:
        self.taken: list[str] = []
        self.exhausted = False
        self._lines = chain([first], rest)

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.taken.append(line)
            yield line
        self.exhausted = True


def _records(text: bytes) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each record with its line end, and its fields: None for a last one whose quote is still open."""
    lines = io.StringIO(text.decode(ENCODING), newline="")
    for line in lines:
        if '"' in line:
            noted = _NotedLines(line, lines)
            fields = next(csv.reader(noted))
            yield "".join(noted.taken), None if noted.exhausted else fields
        else:
            yield line, line.rstrip("\r\n").split(",")


def _without_blank_lines(text: bytes) -> bytes:
    """Cut off the blank lines at the beginning; spaces before the first name stay."""
    blank = text[: len(text) - len(text.lstrip())]
    return text[max(blank.rfind(b"\n"), blank.rfind(b"\r")) + 1 :]


def _simply_quoted(characters: npt.NDArray[np.uint8], within: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether quotes stand only around whole fields, and doubled within them.

    Args:
        characters: (N,), whole lines.
        within: (N,), 1 from an opening quote on and 0 from a closing one on.
    """
    quotes = np.flatnonzero(characters == _QUOTE)
    opening, closing = quotes[within[quotes] == 1], quotes[within[quotes] == 0]
    before = np.where(opening > 0, characters[opening - 1], _NEWLINE)
    return bool(np.isin(before, _AROUND_QUOTES).all() and np.isin(characters[closing + 1], _AROUND_QUOTES).all())


def _end_of_last_line(text: bytes, final: bool) -> int:
    """Return the place behind the last line end; a carriage return at the end may be half of one."""
    if final:
        return len(text)
    return max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1)) + 1
