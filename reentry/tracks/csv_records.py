"""The records of a CSV file: its header and its rows.

All code that reads a CSV file uses this module, so that row N is the same row in the measurements, in the results and
in the rows that are set aside. Quotes are interpreted as in Python's csv module.

Text is handled as bytes or decoded as latin-1, which maps every byte to a character. Text in any encoding is therefore
written back unchanged.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import TrackFileError
from reentry.tracks.text_blocks import ENCODING, Block, Lines

BLOCK_BYTES: Final = 2**20
LONGEST_RECORD: Final = 2**26
"""Maximum size of a record in bytes, so that an unclosed quote does not fill the memory."""
BYTE_ORDER_MARK: Final = codecs.BOM_UTF8.decode(ENCODING)

_COMMA, _NEWLINE, _QUOTE = ord(","), ord("\n"), ord('"')
_AROUND_QUOTES = (_COMMA, _NEWLINE, _QUOTE)
_CSV_LINE_END = "\r\n"  # makes csv.writer quote every field that contains either character
_BLANK = " \t\r\n\v\f"

csv.field_size_limit(sys.maxsize)  # the default is 131,072 characters; the limit is global to the process


class CsvRecords:
    """Reader of a CSV file.

    Every row must have as many fields as the header. Empty fields at the end of a row and unnamed columns at the end of
    the header are ignored in this comparison.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            TrackFileError: The file cannot be read, or its header is not UTF-8 text.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._byte_order_mark = BYTE_ORDER_MARK if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else ""
                file.seek(len(self._byte_order_mark))
                self.header, self._start = self._read_header(file)
                file.seek(0)
                self._head = file.read(self._start)
        except OSError as error:
            raise TrackFileError("cannot be read", where=str(path), got=error.strerror) from error
        try:
            names = fields_of(self.header.encode(ENCODING).decode("utf-8")) if self.header else []
        except UnicodeDecodeError as error:
            raise TrackFileError(
                "a binary file, or text that is not UTF-8", where=str(path), expected="CSV in UTF-8"
            ) from error
        self.names = tuple(name.strip() for name in names)
        self._width = len(self.names)
        self._fewest_fields = next((n for n in range(self._width, 0, -1) if self.names[n - 1]), 0)

    @property
    def header_text(self) -> str:
        """Unchanged text of the header in `ENCODING`, with its byte order mark and without its line end."""
        return self._byte_order_mark + self.header

    def blocks(self, seen: Callable[[bytes], object] | None = None) -> Iterator[Block]:
        """Yield the rows in blocks; see `lines` for `seen` and the errors."""
        for lines in self.lines(seen):
            block = self.split(lines)
            if block.rows:
                yield block

    def split(self, lines: Lines) -> Block:
        """Split lines into rows."""
        return self._parse_block(lines.text)[0] if lines.block is None else lines.block

    def lines(self, seen: Callable[[bytes], object] | None = None) -> Iterator[Lines]:
        """Yield the lines below the header.

        Args:
            seen: function that is called with the bytes of the whole file, part by part in their order.

        Raises:
            TrackFileError: The file cannot be read, contains a NUL byte or an unclosed quote, or has a row that is too
                long.
        """
        rest, final = b"", False
        try:
            with self.path.open("rb") as file:
                if seen is not None:
                    seen(self._head)  # the bytes whose columns are used, even if the file has been replaced since
                file.seek(self._start)
                while not final:
                    data = file.read(max(BLOCK_BYTES, len(rest)))  # growing reads scan a long record only a few times
                    if seen is not None:
                        seen(data)
                    if b"\0" in data:
                        raise self._nul_byte(file.tell() - len(data) + data.index(b"\0"))
                    final = not data
                    text = rest + data
                    end = _end_of_last_line(text, final)
                    lines, rest = text[:end], text[end:]
                    block = None
                    if b'"' in lines:
                        block, open_record = self._parse_block(lines)
                        rest = open_record + rest
                        if final and open_record:
                            raise self._unclosed_quote(file.tell() - len(rest))
                    if len(rest) > LONGEST_RECORD:
                        raise self._row_too_long(file.tell() - len(rest))
                    if lines:
                        yield Lines(text=lines, block=block)
        except OSError as error:
            raise TrackFileError("cannot be read", where=str(self.path), got=error.strerror) from error

    def _read_header(self, file: BinaryIO) -> tuple[str, int]:
        """Return the first record that is not blank, and the byte offset of the next record."""
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
                raise self._row_too_long(file.tell() - len(data))
        if data:
            raise self._unclosed_quote(file.tell() - len(data))
        return "", file.tell()

    def _parse_block(self, text: bytes) -> tuple[Block, bytes]:
        """Split whole lines into rows; also return the last record, unparsed, if its quote is still open."""
        quoted = b'"' in text
        if b"\r" in text:
            if quoted:
                return self._parse_by_record(text)
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text and not text.endswith(b"\n"):
            text += b"\n"
        characters = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(characters == _NEWLINE)
        commas = np.flatnonzero(characters == _COMMA)
        if quoted:
            within = np.cumsum(characters == _QUOTE, dtype=np.uint32) & 1
            if within[ends].any() or not _simply_quoted(characters, within):
                return self._parse_by_record(text)
            commas = commas[within[commas] == 0]
        if (np.diff(np.searchsorted(commas, ends), prepend=0) == self._width - 1).all():
            return Block(rows=len(ends), parsed=text, texts=None, misfits={}), b""
        return self._parse_by_record(text)

    def _parse_by_record(self, text: bytes) -> tuple[Block, bytes]:
        """Split lines as `_parse_block` does, record by record; slower, but correct for any quotes and line ends."""
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
                    if len(fields) < self._fewest_fields or any(field.strip() for field in fields[self._width :]):
                        misfits[len(texts)] = len(fields)
                    fields = (fields + [""] * self._width)[: self._width]
                    texts.append(csv_line(fields) if quoted else ",".join(fields))
                if quoted:
                    quoting.writerow(fields)
                else:
                    parsed.write(texts[-1] + "\n")
        block = Block(rows=len(texts), parsed=parsed.getvalue().encode(ENCODING), texts=texts, misfits=misfits)
        return block, open_record.encode(ENCODING)

    def _nul_byte(self, position: int) -> TrackFileError:
        return TrackFileError(
            "NUL byte in the text",
            where=str(self.path),
            expected="CSV in UTF-8",
            got=f"a NUL in line {self._line(position):,}, at byte {position:,}",
            fix="copy or export the file again: it is damaged, or not text",
        )

    def _row_too_long(self, position: int) -> TrackFileError:
        return TrackFileError(
            "not readable as CSV: row too long",
            where=str(self.path),
            expected=f"at most {LONGEST_RECORD:,} bytes in a row",
            got=f"more in the row that begins in line {self._line(position):,}",
            fix="close the quote that opens there, or break the line",
        )

    def _unclosed_quote(self, position: int) -> TrackFileError:
        return TrackFileError(
            "not readable as CSV: unclosed quote",
            where=str(self.path),
            got=f"the end of the file within the row that begins in line {self._line(position):,}",
            fix="close the quote, or remove it",
        )

    def _line(self, position: int) -> int:
        """Return the one-based number of the line that contains the byte at `position`."""
        line, before = 1, b""
        with self.path.open("rb") as file:
            while data := file.read(min(BLOCK_BYTES, position - file.tell())):
                line += data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
                line -= before.endswith(b"\r") and data.startswith(b"\n")
                before = data
        return line


def fields_of(record: str) -> list[str]:
    """Split one record into its fields."""
    return next(csv.reader([record]))


def csv_line(fields: Sequence[str]) -> str:
    """Join fields into one record without a line end; fields are quoted where necessary."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=_CSV_LINE_END).writerow(fields)
    return buffer.getvalue().removesuffix(_CSV_LINE_END)


def split_records(text: bytes) -> Iterator[str]:
    """Yield the records of complete CSV text in `ENCODING`, without line ends."""
    for record, _ in _records(text):
        yield record.rstrip("\r\n")


def _records(text: bytes) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each record with its line end, and its fields; a last record with an unclosed quote has fields None."""
    lines = io.StringIO(text.decode(ENCODING), newline="")
    for line in lines:
        if '"' in line:
            consumed: list[str] = []
            # The reader asks for the empty line, which no file contains, only if a quote is open after the last line.
            fields = next(csv.reader(_recorded(chain([line], lines, [""]), consumed)))
            yield "".join(consumed), fields if consumed[-1] else None
        else:
            yield line, line.rstrip("\r\n").split(",")


def _recorded(lines: Iterable[str], consumed: list[str]) -> Iterator[str]:
    """Yield lines and append each one to `consumed`."""
    for line in lines:
        consumed.append(line)
        yield line


def _without_blank_lines(text: bytes) -> bytes:
    """Remove the blank lines at the beginning, but keep the spaces before the first name."""
    blank = text[: len(text) - len(text.lstrip())]
    return text[max(blank.rfind(b"\n"), blank.rfind(b"\r")) + 1 :]


def _simply_quoted(characters: npt.NDArray[np.uint8], within: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether all quotes either enclose a whole field or are doubled within one.

    Args:
        characters: Bytes of whole lines, (N,).
        within: 1 from each opening quote up to its closing quote, otherwise 0, (N,).
    """
    quotes = np.flatnonzero(characters == _QUOTE)
    opening, closing = quotes[within[quotes] == 1], quotes[within[quotes] == 0]
    before = np.where(opening > 0, characters[opening - 1], _NEWLINE)
    return bool(np.isin(before, _AROUND_QUOTES).all() and np.isin(characters[closing + 1], _AROUND_QUOTES).all())


def _end_of_last_line(text: bytes, final: bool) -> int:
    """Return the offset after the last line end; a final carriage return is ignored, as it may be half of one."""
    if final:
        return len(text)
    return max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1)) + 1
