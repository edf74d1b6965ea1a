"""Measurements to stream: a file of tracks, replayed in the order of time, or lines of JSON as they arrive.

Shapes: N measurements of one scan, M measurement columns.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.schema import LARGEST_SCAN, MEASUREMENT_COLUMNS, SENSOR_ID, TIMESTAMP, TRACK_ID
from reentry.tracks import TrackFile

TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)
SENSOR: Final = MEASUREMENT_COLUMNS.index(SENSOR_ID.name)

_CHUNK: Final = 2**16
"""Largest number of bytes that are read from a pipe at once."""
_LONGEST_LINE: Final = 2**16
"""Bytes of the longest line that is read."""
_LINES_REPORTED: Final = 10
"""Number of bad lines that are reported one by one."""
_INT64: Final = range(-(2**63), 2**63)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scan:
    """Measurements that are sent together."""

    track_ids: npt.NDArray[np.int64]
    """Track of each measurement, (N,)."""
    rows: npt.NDArray[np.float64]
    """Measurements, (N, M)."""

    def by_sensor(self) -> Iterator[tuple[int, Scan]]:
        """Yield the measurements of each sensor; those without a valid sensor belong to sensor -1."""
        sensors = self.rows[:, SENSOR]
        is_valid = np.isfinite(sensors) & (np.abs(sensors) < 2**53)
        numbers = np.where(is_valid, sensors, -1.0).astype(np.int64)
        for sensor in np.unique(numbers).tolist():
            chosen = numbers == sensor
            yield sensor, Scan(self.track_ids[chosen], self.rows[chosen])


def split(scan: Scan, interval: float) -> Iterator[Scan]:
    """Split measurements in order of time into scans.

    Args:
        scan: the measurements.
        interval: duration of a scan, s; 0 for scans of equal timestamps.
    """
    time = scan.rows[:, TIME]
    number = time if interval == 0.0 else np.floor((time - time[0]) / interval + 1e-9)
    edges = np.flatnonzero(np.diff(number) != 0.0) + 1
    for first, end in zip([0, *edges.tolist()], [*edges.tolist(), len(time)], strict=True):
        for start in range(first, end, LARGEST_SCAN):
            part = slice(start, min(end, start + LARGEST_SCAN))
            yield Scan(scan.track_ids[part], scan.rows[part])


def file_scans(file: TrackFile, interval: float) -> Iterator[Scan]:
    """Yield the measurements of all tracks of a file in the order of time, as scans of an interval in s."""
    tracks = list(file)
    if not tracks:
        return
    rows = np.concatenate([track.measurements for track in tracks])
    track_ids = np.repeat([track.track_id for track in tracks], [len(track) for track in tracks])
    order = np.argsort(rows[:, TIME], kind="stable")
    yield from split(Scan(track_ids[order].astype(np.int64), rows[order]), interval)


class JsonLines:
    """Measurements as lines of JSON from a file descriptor. Lines that arrive together form one scan."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.lines = 0
        """Number of lines read."""
        self.bad = 0
        """Number of lines that are not a measurement."""

    async def scans(self) -> AsyncIterator[Scan]:
        """Yield the measurements as they arrive, until the end of the input."""
        rest = b""
        while chunk := await _read(self._descriptor):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest[: _LONGEST_LINE + 1]], b""
            if (scan := self.parse(lines)) is not None:
                yield scan
        if rest.strip() and (scan := self.parse([rest])) is not None:
            yield scan

    def parse(self, lines: list[bytes]) -> Scan | None:
        """Return the measurements of lines; bad lines are reported, counted and skipped."""
        track_ids, rows = [], []
        for line in lines:
            self.lines += 1
            if not line.strip():
                continue
            try:
                track_id, row = measurement_of(line)
            except ValueError as error:
                self.bad += 1
                if self.bad <= _LINES_REPORTED:
                    _log.warning("standard input, line %d: %s; the line is skipped", self.lines, error)
                elif self.bad == _LINES_REPORTED + 1:
                    _log.warning("more bad lines follow; they are counted only")
                continue
            track_ids.append(track_id)
            rows.append(row)
        return Scan(np.array(track_ids, np.int64), np.array(rows, np.float64)) if rows else None


def measurement_of(line: bytes) -> tuple[int, list[float]]:
    """Return track id and measurement, (M,), of a line such as {"timestamp": 12.5, "track_id": 7, ...}.

    Raises:
        ValueError: the line is not a measurement; the message says why.
    """
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"longer than {_LONGEST_LINE:,} bytes")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004  # a line of bad data, not of a bad program
    missing = [name for name in (TRACK_ID.name, *MEASUREMENT_COLUMNS) if name not in fields]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    track_id = fields[TRACK_ID.name]
    if type(track_id) is not int or track_id not in _INT64:
        raise ValueError(f"track_id: expected an int64, got {_shown(track_id)}")
    row = []
    for name in MEASUREMENT_COLUMNS:
        value = fields[name]
        if type(value) not in (int, float):
            raise ValueError(f"{name}: expected a number, got {_shown(value)}")
        try:
            row.append(float(value))
        except OverflowError:
            row.append(math.inf)
    return track_id, row


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."


async def _read(descriptor: int) -> bytes:
    """Read what is available, or wait for it; empty at the end of the input."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # a regular file, which is always readable
        return os.read(descriptor, _CHUNK)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _CHUNK)
