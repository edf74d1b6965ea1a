"""One track's rows made good: order, repeats, cut timestamps, missing cells, short gaps.

What is filled in is drawn between the rows on both sides of it, so it is for whole files: a live track has no later
row. Each repair is counted.

Shapes: N rows, T steps, M measurement columns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.schema import LONGITUDE, MEASUREMENT_COLUMNS, SENSOR_ID, TIMESTAMP
from reentry.tracks.cells import NO_LABEL, Records
from reentry.tracks.report import Fault, Note, Repair
from reentry.tracks.track import Track

EVENNESS: Final = 0.05
"""A step may differ by this share from the track's median step, or from a whole multiple of it, and be even."""

_TIME, _SENSOR, _LONGITUDE = (MEASUREMENT_COLUMNS.index(c.name) for c in (TIMESTAMP, SENSOR_ID, LONGITUDE))

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig:
    """How far a repair may go."""

    longest_gap: int = 5
    """Most steps in a row that are filled in, where rows or cells are missing; 0 fills none."""

    def __post_init__(self) -> None:
        if self.longest_gap < 0:
            raise ConfigError("longest_gap out of range", expected="at least 0 steps", got=str(self.longest_gap))


class Unrepairable(Exception):  # noqa: N818  # it ends in the report, not at the user
    """The track is set aside for `faults`."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """A track, and what was done to it."""

    track: Track
    repairs: Counter[Repair]
    notes: Counter[Note]


def repair_track(records: Records, config: RepairConfig) -> Repaired:
    """Make a track of the rows of one track id.

    Args:
        records: (N,) of `cells.RECORD`, in the file's order, free of faulty cells.
        config: the limits.

    Raises:
        Unrepairable: fewer than two instants' rows, one sensor with two different rows for one instant, or more cells
            missing than `config` fills.
    """
    repairs: Counter[Repair] = Counter()
    records = _by_time(records, repairs)
    rows, track_id = records["row"], int(records["track_id"][0])
    kept, steps = _distinct(records)
    time = records["measurement"][kept, _TIME]
    conflicts = _conflicts(records[kept])
    if len(conflicts):
        retimed = _retimed(records, kept, steps)
        if retimed is None:
            first = conflicts[0]
            raise Unrepairable(
                [
                    Fault(
                        row=int(rows[kept[first]]),
                        column=TIMESTAMP.name,
                        track_id=track_id,
                        problem="one sensor has two different rows for one instant",
                        got=f"{time[first]:.6f}".rstrip("0").rstrip("."),
                        count=len(conflicts),
                    )
                ]
            )
        kept, steps, time = retimed
        repairs[Repair.RETIMED] += len(kept)
    repairs[Repair.REPEATED] += len(rows) - len(kept)
    if len(kept) < 2:
        raise Unrepairable(
            [Fault(row=int(rows[0]), column=None, track_id=track_id, problem="fewer than 2 rows", got=str(len(kept)))]
        )

    measurements = records["measurement"][kept]
    measurements[:, _TIME] = time
    _fill_cells(measurements, rows[kept], track_id, config.longest_gap, repairs)
    labels = records["reentry_phase"][kept]
    earlier, share, notes = _grid(time, config.longest_gap)
    repairs[Repair.STEPS] += len(earlier) - len(kept)
    if len(earlier) > len(kept):
        measurements = _between(measurements, earlier, share)
        labels = labels[earlier]
        steps = np.flatnonzero(share == 0.0)[steps]
    track = Track(
        track_id=track_id,
        measurements=measurements,
        reentry_phase=None if (labels == NO_LABEL).any() else labels,
        rows=rows.copy(),
        steps=steps,
    )
    return Repaired(track=track, repairs=+repairs, notes=+notes)


def _by_time(records: Records, repairs: Counter[Repair]) -> Records:
    """Sort by time, at one instant by sensor, else as in the file, where a cut timestamp hides the order."""
    time, sensor = records["measurement"][:, _TIME], records["measurement"][:, _SENSOR]
    late = time[1:] < np.maximum.accumulate(time)[:-1]
    if late.any() or ((np.diff(time) == 0) & (np.diff(sensor) < 0)).any():
        repairs[Repair.SORTED] += int(late.sum())
        records = records[np.lexsort((sensor, time))]
    return records


def _same_instant(records: Records) -> npt.NDArray[np.bool_]:
    """(N - 1,): whether a row has the time and the sensor of the row before."""
    cells = records["measurement"]
    same: npt.NDArray[np.bool_] = (np.diff(cells[:, _TIME]) == 0) & (np.diff(cells[:, _SENSOR]) == 0)
    return same


def _distinct(records: Records) -> tuple[Ints, Ints]:
    """Keep the first of rows that are equal in every column: positions kept (T,), and the step of each row (N,)."""
    everything = np.arange(len(records))
    if not _same_instant(records).any():
        return everything, everything
    table = np.column_stack([records["measurement"] + 0.0, records["reentry_phase"]])  # + 0.0: -0.0 is 0.0
    as_bytes = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).ravel()  # and NaN is NaN
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    step_of = np.empty_like(order)
    step_of[order] = np.arange(len(order))
    return first[order], step_of[inverse]


def _conflicts(records: Records) -> Ints:
    """Positions of rows with the instant and the sensor of the row before."""
    return np.flatnonzero(_same_instant(records)) + 1


def _retimed(records: Records, kept: Ints, steps: Ints) -> tuple[Ints, Ints, Floats] | None:
    """Rebuild timestamps that were cut to whole seconds: rows kept (T,), step of each row (N,), times (T,).

    Repeated rows are taken for repeats first; if the seconds do not come out even so, for the equal measurements of a
    target that stood still.
    """
    sensor = records["measurement"][:, _SENSOR]
    if (sensor != sensor[0]).any():
        return None
    time = records["measurement"][:, _TIME]
    everything = np.arange(len(records))
    for rows, step_of in ((kept, steps), (everything, everything)):
        even = _even_times(time[rows])
        if even is not None:
            return rows, step_of, even
    return None


def _even_times(time: Floats) -> Floats | None:
    """The times of steps whose whole seconds are all that is left, if these say so: (T,) -> (T,), s.

    k rows in each second, fewer at most in the first and the last, and no second without any, are steps of 1 / k s.
    They start at the first timestamp: whether they were cut by rounding or by truncation cannot be seen, and the model
    knows differences alone. Two inner seconds are the least evidence.
    """
    seconds, counts = np.unique(time, return_counts=True)
    inner = counts[1:-1]
    if (
        len(inner) < 2
        or inner[0] < 2
        or (inner != inner[0]).any()
        or max(counts[0], counts[-1]) > inner[0]
        or (seconds != np.floor(seconds)).any()
        or (np.diff(seconds) != 1.0).any()
    ):
        return None
    even: Floats = time[0] + np.arange(len(time)) / inner[0]
    return even


def _fill_cells(cells: Floats, rows: Ints, track_id: int, longest: int, repairs: Counter[Repair]) -> None:
    """Fill missing cells of (T, M) in place, in time between their neighbours, at the ends with the nearest."""
    faults = []
    for column, name in enumerate(MEASUREMENT_COLUMNS):
        missing = np.isnan(cells[:, column])
        if not missing.any():
            continue
        edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
        starts, runs = edges[::2], np.diff(edges)[::2]
        if runs.max() > longest or missing.all():
            first = int(starts[np.argmax(runs > longest)])
            problem = f"more than {longest} cells in a row are missing" if runs.max() > longest else "all are missing"
            faults.append(
                Fault(
                    row=int(rows[first]),
                    column=name,
                    track_id=track_id,
                    problem=problem,
                    got=str(runs.max()),
                    count=int(missing.sum()),
                )
            )
            continue
        time, known = cells[:, _TIME], cells[~missing, column]
        if column == _LONGITUDE:
            turned = np.interp(time[missing], time[~missing], np.unwrap(known, period=360.0))
            cells[missing, column] = _in_range_of(known, turned)
        else:
            cells[missing, column] = np.interp(time[missing], time[~missing], known)
        repairs[Repair.CELLS] += int(missing.sum())
    if faults:
        raise Unrepairable(faults)


def _grid(time: Floats, longest: int) -> tuple[Ints, Floats, Counter[Note]]:
    """Place steps into the short gaps of an even track: each step's earlier row and its share of the way to the next.

    Args:
        time: (T,), s.
        longest: most steps to place into one gap.

    Returns:
        Two of (T',), T' >= T, share 0 for the rows themselves; and the gaps that are longer.
    """
    notes: Counter[Note] = Counter()
    last = len(time) - 1
    unfilled = np.arange(len(time)), np.zeros(len(time))
    moves = np.diff(time)
    if not (moves > 0).any():
        return *unfilled, notes
    multiple = moves / np.median(moves[moves > 0])
    long = multiple > longest + 1 + EVENNESS
    notes[Note.LONG_GAP] += int(long.sum())
    whole = np.rint(multiple)
    even = (whole >= 1) & (np.abs(multiple - whole) <= EVENNESS)
    if not (even | long).all() or (whole[~long] == 1).all():
        return *unfilled, notes
    parts = np.where(long, 1, whole).astype(np.int64)
    earlier = np.append(np.repeat(np.arange(last), parts), last)
    begins = np.append(0, np.cumsum(parts))
    share = (np.arange(len(earlier)) - begins[earlier]) / np.append(parts, 1)[earlier]
    return earlier, share, notes


def _between(cells: Floats, earlier: Ints, share: Floats) -> Floats:
    """Measurements (T', M) at `share` of the way from the rows `earlier` of (T, M) to the next ones."""
    move = np.diff(cells, axis=0, append=cells[-1:])
    move[:, _SENSOR] = 0.0
    move[:, _LONGITUDE] = (move[:, _LONGITUDE] + 180.0) % 360.0 - 180.0
    between: Floats = cells[earlier] + share[:, None] * move[earlier]
    new = share > 0.0
    between[new, _LONGITUDE] = _in_range_of(cells[:, _LONGITUDE], between[new, _LONGITUDE])
    return between


def _in_range_of(measured: Floats, longitude: Floats) -> Floats:
    """Turn longitudes into the range of the measured ones, 0 ... 360 if one is beyond 180, else -180 ... 180."""
    lowest = 0.0 if measured.max() > 180.0 else -180.0
    inside = (longitude >= lowest) & (longitude <= lowest + 360.0)
    return np.where(inside, longitude, (longitude - lowest) % 360.0 + lowest)
