"""What reading a file of tracks found, repaired and set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.runtime.files import whole_file
from reentry.tracks.records import BYTE_ORDER_MARK, ENCODING, csv_line, fields_of
from reentry.tracks.sources import row_texts

FAULTS_SHOWN: Final = 20
ROW_COLUMN: Final = "set_aside_row"
REASON_COLUMN: Final = "set_aside_reason"


class Repair(StrEnum):
    """What was made good, counted in rows, cells or steps as its text says."""

    SORTED = "rows put into time order"
    REPEATED = "repeated rows dropped"
    RETIMED = "timestamps cut to whole seconds rebuilt"
    CELLS = "missing cells filled"
    STEPS = "missing steps filled"


class Note(StrEnum):
    """What was seen and left as it is."""

    LONG_GAP = "longer gaps in time left open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a track, once for each column and kind."""

    row: int
    """The first row that has it, from 0."""
    column: str | None
    """None: the row as a whole."""
    track_id: int | None
    """None: the row names no track."""
    problem: str
    got: str
    """What the first such cell holds."""
    count: int = 1
    """Rows that have it."""

    def __str__(self) -> str:
        place = f"row {self.row}" + (f", column {self.column}" if self.column else "")
        more = f" ({self.count:,} rows)" if self.count > 1 else ""
        return f"{place}: {self.problem}, got {self.got}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A track, or the rows of none, that does not go on."""

    track_id: int | None
    reason: str
    rows: npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class ReadReport:
    """The whole of a file: every row is in a good track or set aside."""

    path: Path
    rows: int = 0
    tracks: int = 0
    """Those that go on."""
    repairs: Counter[Repair] = field(default_factory=Counter)
    notes: Counter[Note] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every track goes on; repairs do not count against it."""
        return not self.set_aside

    @property
    def rows_set_aside(self) -> int:
        """Rows that do not go on."""
        return sum(len(s.rows) for s in self.set_aside)

    def summary(self) -> str:
        """The report for a person: a line, then one for each repair, note and fault, the first `FAULTS_SHOWN`."""
        lines = [f"{self.path}: rows {self.rows:,}, good tracks {self.tracks:,}"]
        lines += [f"  repaired: {what} {count:,}" for what, count in self.repairs.items()]
        lines += [f"  note: {what} {count:,}" for what, count in self.notes.items()]
        if not self.clean:
            tracks = sum(s.track_id is not None for s in self.set_aside)
            lines.append(f"  set aside: tracks {tracks:,}, rows {self.rows_set_aside:,}")
            for fault in self.faults[:FAULTS_SHOWN]:
                whose = "no track" if fault.track_id is None else f"track {fault.track_id}"
                lines.append(f"    {whose}, {fault}")
            if len(self.faults) > FAULTS_SHOWN:
                lines.append(f"    and more faults: {len(self.faults) - FAULTS_SHOWN:,}")
        return "\n".join(lines)

    def write_set_aside(self, path: Path) -> int:
        """Write the rows that were set aside as CSV, as the file has them, each with its row number and the reason.

        Mended there, they can be read as a file of tracks: the two columns more do no harm. Nothing is written when
        nothing was set aside.

        Returns:
            The rows written.
        """
        if self.clean:
            return 0
        with whole_file(path) as part, part.open("w", encoding=ENCODING, newline="") as file:
            file.writelines(self.lines_set_aside())
        return self.rows_set_aside

    def lines_set_aside(self) -> Iterator[str]:
        """Yield the lines of the file that `write_set_aside` writes; latin-1 turns them into its bytes."""
        reasons = {row: each.reason for each in self.set_aside for row in each.rows.tolist()}
        added = (ROW_COLUMN, REASON_COLUMN)
        texts = row_texts(self.path)
        header = next(texts).removeprefix(BYTE_ORDER_MARK)
        names = fields_of(header)
        kept = [
            place for place, name in enumerate(names) if name.strip() not in added
        ]  # those of an earlier reading go

        def line(text: str, more: Sequence[str]) -> str:
            own = text if len(kept) == len(names) else csv_line([fields_of(text)[place] for place in kept])
            return f"{own},{csv_line(more).encode().decode(ENCODING)}\n"

        yield line(header, added)
        for row, text in enumerate(texts):
            if row in reasons:
                yield line(text, (str(row), reasons[row]))
