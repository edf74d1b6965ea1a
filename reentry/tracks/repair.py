"""Repair of one track: row order, duplicate rows, truncated timestamps, missing cells and short time gaps.

Missing values are interpolated between the rows before and after them. The repair therefore works on whole files only,
not on live tracks, where the later row does not exist yet. Each repair is counted.

Shapes: N rows, T steps, T' steps after gaps are filled, M measurement columns.
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
"""Tolerance, as a fraction of the track's median step, within which a time step counts as a multiple of that step."""

_TIME, _SENSOR, _LONGITUDE = (MEASUREMENT_COLUMNS.index(c.name) for c in (TIMESTAMP, SENSOR_ID, LONGITUDE))

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig:
    """Limits of the repairs."""

    longest_gap: int = 5
    """Maximum number of consecutive missing rows or cells that are interpolated; 0 disables interpolation."""

    def __post_init__(self) -> None:
        if self.longest_gap < 0:
            raise ConfigError("longest_gap out of range", expected="at least 0 steps", got=str(self.longest_gap))


class Unrepairable(Exception):  # noqa: N818  # caught by the reader, which reports the faults
    """The track must be set aside because of `faults`."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """A repaired track with the numbers of its repairs and notes."""

    track: Track
    repairs: Counter[Repair]
    notes: Counter[Note]


def repair_track(records: Records, config: RepairConfig) -> Repaired:
    """Build a track from the rows of one track id.

    Args:
        records: Rows, (N,), with dtype `cells.RECORD`, in file order and without faulty cells.
        config: Limits of the repairs.

    Raises:
        Unrepairable: The track has fewer than two distinct rows, one sensor has two different rows with the same
            timestamp, or more consecutive cells are missing than `config` allows.
    """
    measurements = records["measurement"].copy()
    if _needs_no_repair(measurements):
        track = _track(records, measurements, records["reentry_phase"], np.arange(len(records)))
        return Repaired(track=track, repairs=Counter(), notes=Counter())
    repairs: Counter[Repair] = Counter()
    records = _sort(records, repairs)
    rows, track_id = records["row"], int(records["track_id"][0])
    kept, steps = _distinct(records)
    time = records["measurement"][kept, _TIME]
    conflicts = np.flatnonzero(_same_instant(records[kept])) + 1
    if len(conflicts):
        restored = _restore_time(records, kept, steps)
        if restored is None:
            first = conflicts[0]
            fault = Fault(
                row=int(rows[kept[first]]),
                column=TIMESTAMP.name,
                track_id=track_id,
                problem="one sensor has two different rows with the same timestamp",
                got=f"{time[first]:.6f}".rstrip("0").rstrip("."),
                count=len(conflicts),
            )
            raise Unrepairable([fault])
        kept, steps, time = restored
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
    earlier, fraction, notes = _fill_gaps(time, config.longest_gap)
    repairs[Repair.STEPS] += len(earlier) - len(kept)
    if len(earlier) > len(kept):
        measurements = _interpolate(measurements, earlier, fraction)
        labels = labels[earlier]
        steps = np.flatnonzero(fraction == 0.0)[steps]
    return Repaired(track=_track(records, measurements, labels, steps), repairs=+repairs, notes=+notes)


def _track(records: Records, measurements: Floats, labels: npt.NDArray[np.int8], steps: Ints) -> Track:
    """Build a track from rows in time order, (N,), and its measurements, (T', M), labels, (T',), and steps, (N,)."""
    return Track(
        track_id=int(records["track_id"][0]),
        measurements=measurements,
        reentry_phase=None if (labels == NO_LABEL).any() else labels.copy(),
        rows=records["row"].copy(),
        steps=steps,
    )


def _needs_no_repair(measurements: Floats) -> bool:
    """Whether rows, (N, M), are in time order with even steps and without missing cells, as in most tracks.

    The check is quick but strict: it may be False for a track that needs no repair.
    """
    if len(measurements) < 2 or np.isnan(measurements).any():
        return False
    time = measurements[:, _TIME]
    differences = time[1:] - time[:-1]
    shortest, longest = differences.min(), differences.max()
    # Half the tolerance leaves room for rounding. No step is then a gap, whatever the median step is.
    return bool(shortest > 0.0 and longest <= (1.0 + EVENNESS / 2) * shortest)


def _sort(records: Records, repairs: Counter[Repair]) -> Records:
    """Sort rows by time and sensor; equal rows keep the file order, which restores truncated timestamps."""
    time, sensor = records["measurement"][:, _TIME], records["measurement"][:, _SENSOR]
    late = time[1:] < np.maximum.accumulate(time)[:-1]
    if late.any() or ((np.diff(time) == 0) & (np.diff(sensor) < 0)).any():
        repairs[Repair.SORTED] += int(late.sum())
        records = records[np.lexsort((sensor, time))]
    return records


def _same_instant(records: Records) -> npt.NDArray[np.bool_]:
    """Whether each row but the first has the same time and sensor as the row before it, (N - 1,)."""
    cells = records["measurement"]
    same: npt.NDArray[np.bool_] = (np.diff(cells[:, _TIME]) == 0) & (np.diff(cells[:, _SENSOR]) == 0)
    return same


def _distinct(records: Records) -> tuple[Ints, Ints]:
    """Drop duplicate rows; return the positions of the rows kept (T,) and the step of each row (N,)."""
    if not _same_instant(records).any():
        every_row = np.arange(len(records))
        return every_row, every_row
    # Rows are compared as bytes, so that NaN equals NaN. Adding 0.0 turns -0.0 into 0.0.
    table = np.column_stack([records["measurement"] + 0.0, records["reentry_phase"]])
    as_bytes = table.view(np.dtype((np.void, table.itemsize * table.shape[1]))).ravel()
    _, first, inverse = np.unique(as_bytes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[inverse]


def _restore_time(records: Records, kept: Ints, steps: Ints) -> tuple[Ints, Ints, Floats] | None:
    """Restore timestamps that were truncated to whole seconds, or return None if that is impossible.

    Equal rows are first taken as duplicates. If that gives no even times, they are taken as equal measurements of a
    target at rest.

    Returns:
        Positions of the rows kept (T,), the step of each row (N,), and the restored times (T,), s.
    """
    sensor = records["measurement"][:, _SENSOR]
    if (sensor != sensor[0]).any():
        return None
    time = records["measurement"][:, _TIME]
    every_row = np.arange(len(records))
    for rows, step_of in ((kept, steps), (every_row, every_row)):
        even = _even_times(time[rows])
        if even is not None:
            return rows, step_of, even
    return None


def _even_times(time: Floats) -> Floats | None:
    """Return evenly spaced times for timestamps in whole seconds, or None if the rows are not evenly spread, (T,), s.

    If every second has k rows, except that the first and the last may have fewer, the step is 1 / k s. At least two
    inner seconds are required. The times start at the first timestamp: whether the seconds were rounded or truncated is
    unknown, but the model uses time differences only.
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
    """Fill missing cells (T, M) in place: interpolated in time, and with the nearest value at either end."""
    faults = []
    for column, name in enumerate(MEASUREMENT_COLUMNS):
        missing = np.isnan(cells[:, column])
        if not missing.any():
            continue
        edges = np.flatnonzero(np.diff(missing, prepend=False, append=False))
        starts, lengths = edges[::2], np.diff(edges)[::2]
        too_long = lengths > longest
        if too_long.any() or missing.all():
            first = int(starts[np.argmax(too_long)])
            problem = (
                f"more than {longest} consecutive cells are missing" if too_long.any() else "all cells are missing"
            )
            faults.append(
                Fault(
                    row=int(rows[first]),
                    column=name,
                    track_id=track_id,
                    problem=problem,
                    got=str(lengths.max()),
                    count=int(missing.sum()),
                )
            )
            continue
        time, known = cells[:, _TIME], cells[~missing, column]
        if column == _LONGITUDE:
            unwrapped = np.interp(time[missing], time[~missing], np.unwrap(known, period=360.0))
            cells[missing, column] = _wrap_longitude(unwrapped, known)
        else:
            cells[missing, column] = np.interp(time[missing], time[~missing], known)
        repairs[Repair.CELLS] += int(missing.sum())
    if faults:
        raise Unrepairable(faults)


def _fill_gaps(time: Floats, longest: int) -> tuple[Ints, Floats, Counter[Note]]:
    """Insert steps into the short time gaps of a track whose steps are otherwise even.

    Args:
        time: Time of each step, (T,), s.
        longest: Maximum number of steps to insert into one gap.

    Returns:
        A tuple of three values. First, the position of the row at or before each resulting step, (T',). Second, the
        step's fraction of the way to the next row, (T',), which is 0 for the rows themselves. Third, the number of gaps
        that are too long, as notes.
    """
    notes: Counter[Note] = Counter()
    last = len(time) - 1
    unfilled = np.arange(len(time)), np.zeros(len(time))
    differences = np.diff(time)
    if not (differences > 0).any():
        return *unfilled, notes
    multiple = differences / np.median(differences[differences > 0])
    long = multiple > longest + 1 + EVENNESS
    notes[Note.LONG_GAP] += int(long.sum())
    whole = np.rint(multiple)
    even = (whole >= 1) & (np.abs(multiple - whole) <= EVENNESS)
    if not (even | long).all() or (whole[~long] == 1).all():
        return *unfilled, notes
    intervals = np.where(long, 1, whole).astype(np.int64)
    earlier = np.append(np.repeat(np.arange(last), intervals), last)
    starts = np.append(0, np.cumsum(intervals))
    fraction = (np.arange(len(earlier)) - starts[earlier]) / np.append(intervals, 1)[earlier]
    return earlier, fraction, notes


def _interpolate(cells: Floats, earlier: Ints, fraction: Floats) -> Floats:
    """Interpolate the rows of (T, M) at the steps that `_fill_gaps` returns, giving (T', M)."""
    difference = np.diff(cells, axis=0, append=cells[-1:])
    difference[:, _SENSOR] = 0.0
    difference[:, _LONGITUDE] = (difference[:, _LONGITUDE] + 180.0) % 360.0 - 180.0
    result: Floats = cells[earlier] + fraction[:, None] * difference[earlier]
    inserted = fraction > 0.0
    result[inserted, _LONGITUDE] = _wrap_longitude(result[inserted, _LONGITUDE], cells[:, _LONGITUDE])
    return result


def _wrap_longitude(longitude: Floats, measured: Floats) -> Floats:
    """Wrap longitudes into the range of the measured ones: 0 to 360 if one exceeds 180, otherwise -180 to 180."""
    lowest = 0.0 if measured.max() > 180.0 else -180.0
    inside = (longitude >= lowest) & (longitude <= lowest + 360.0)
    return np.where(inside, longitude, (longitude - lowest) % 360.0 + lowest)
