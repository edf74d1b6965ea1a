"""Report on reading a file of tracks: its faults, its repairs, and the rows that were set aside."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.runtime.files import whole_file
from reentry.tracks.csv_records import BYTE_ORDER_MARK, csv_line, fields_of
from reentry.tracks.sources import RowTexts
from reentry.tracks.text_blocks import ENCODING

FAULTS_SHOWN: Final = 20
ROW_COLUMN: Final = "set_aside_row"
REASON_COLUMN: Final = "set_aside_reason"


class Repair(StrEnum):
    """Kind of repair; the text names what is counted."""

    SORTED = "rows sorted into time order"
    REPEATED = "duplicate rows dropped"
    RETIMED = "timestamps restored after truncation to whole seconds"
    CELLS = "missing cells filled"
    STEPS = "missing steps filled"


class Note(StrEnum):
    """Kind of irregularity that is reported but not repaired."""

    LONG_GAP = "long time gaps left unfilled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One problem in one column of a track."""

    row: int
    """Zero-based number of the first row with the fault."""
    column: str | None
    """Name of the column; None if the fault concerns the whole row."""
    track_id: int | None
    """Track of the row; None if the track id is unreadable."""
    problem: str
    got: str
    """Value of the first faulty cell."""
    count: int = 1
    """Number of rows with the fault."""

    def __str__(self) -> str:
        place = f"row {self.row}" + (f", column {self.column}" if self.column else "")
        more = f" ({self.count:,} rows)" if self.count > 1 else ""
        return f"{place}: {self.problem}, got {self.got}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A track that is excluded from further processing, or all rows whose track id is unreadable."""

    track_id: int | None
    """Id of the track; None for rows whose track id is unreadable."""
    reason: str
    rows: npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class ReadReport:
    """Report on one file. Every row of the file is either in a good track or set aside."""

    path: Path
    rows: int = 0
    tracks: int = 0
    """Number of good tracks."""
    repairs: Counter[Repair] = field(default_factory=Counter)
    notes: Counter[Note] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether no row was set aside; a file with repairs alone is clean."""
        return not self.set_aside

    @property
    def rows_set_aside(self) -> int:
        """Number of rows that were set aside."""
        return sum(len(s.rows) for s in self.set_aside)

    def summary(self) -> str:
        """Return the report as text with one line per repair, note and fault; at most `FAULTS_SHOWN` faults."""
        lines = [f"{self.path}: rows {self.rows:,}, good tracks {self.tracks:,}"]
        lines += [f"  repaired: {kind} {count:,}" for kind, count in self.repairs.items()]
        lines += [f"  note: {kind} {count:,}" for kind, count in self.notes.items()]
        if not self.clean:
            tracks = sum(s.track_id is not None for s in self.set_aside)
            lines.append(f"  set aside: tracks {tracks:,}, rows {self.rows_set_aside:,}")
            for fault in self.faults[:FAULTS_SHOWN]:
                track = "no track" if fault.track_id is None else f"track {fault.track_id}"
                lines.append(f"    {track}, {fault}")
            if len(self.faults) > FAULTS_SHOWN:
                lines.append(f"    and more faults: {len(self.faults) - FAULTS_SHOWN:,}")
        return "\n".join(lines)

    def write_set_aside(self, path: Path) -> int:
        """Write the unchanged rows that were set aside as CSV, with their row numbers and reasons in two more columns.

        The result can be corrected and read as a file of tracks. If no row was set aside, no file is written.

        Returns:
            Number of rows written.
        """
        if self.clean:
            return 0
        with whole_file(path) as part, part.open("w", encoding=ENCODING, newline="") as file:
            file.writelines(self.lines_set_aside())
        return self.rows_set_aside

    def lines_set_aside(self) -> Iterator[str]:
        """Yield the lines that `write_set_aside` writes, decoded as latin-1."""
        reasons = {row: each.reason for each in self.set_aside for row in each.rows.tolist()}
        added = (ROW_COLUMN, REASON_COLUMN)
        texts = RowTexts(self.path)
        header = texts.header.removeprefix(BYTE_ORDER_MARK)
        names = fields_of(header)
        # The file may itself be a set-aside file, whose two added columns are replaced.
        kept = [position for position, name in enumerate(names) if name.strip() not in added]

        def line(text: str, more: Sequence[str]) -> str:
            if len(kept) < len(names):
                fields = fields_of(text)
                text = csv_line([fields[position] for position in kept])
            return f"{text},{csv_line(more).encode().decode(ENCODING)}\n"

        yield line(header, added)
        rows, first = sorted(reasons), 0
        for block in texts.blocks():
            inside = rows[bisect_left(rows, first) : bisect_left(rows, first + block.rows)]
            lines = block.row_texts() if inside else ()
            for row in inside:
                yield line(lines[row - first], (str(row), reasons[row]))
            first += block.rows
