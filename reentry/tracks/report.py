"""What reading a file of tracks found, repaired and set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reentry.files import whole_file
from reentry.tracks.sources import open_source

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
        with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            for number, table in enumerate(self._tables_set_aside()):
                table.to_csv(file, index=False, header=number == 0, lineterminator="\n")
        return self.rows_set_aside

    def _tables_set_aside(self) -> Iterator[pd.DataFrame]:
        rows = np.concatenate([s.rows for s in self.set_aside])
        of = np.repeat(np.arange(len(self.set_aside)), [len(s.rows) for s in self.set_aside])
        order = np.argsort(rows)
        rows, of = rows[order], of[order]
        reasons = np.array([s.reason for s in self.set_aside], dtype=object)
        for table in open_source(self.path).tables():
            start, end = np.searchsorted(rows, [table.index[0], table.index[-1] + 1])
            if start == end:
                continue
            here = table.loc[rows[start:end]]
            yield here.assign(**{ROW_COLUMN: rows[start:end], REASON_COLUMN: reasons[of[start:end]]})
