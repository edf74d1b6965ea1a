"""Requests of simulated live tracks, whose parts are encoded before they are sent.

A request is a fixed prefix and the measurements. Each sequence has its own prefix, so that sending a request costs the
copy of its measurements alone. The flights repeat at later times, so that a track lives as long as the replay.

Shapes: F simulated flights, S steps, M measurement columns, N tracks of one request.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import numpy.typing as npt

from client.grpc_request import SequenceFlags, encoded_request, row_head, row_request
from perf.scoring import draw_flights
from perf.stream.config import StreamConfig
from reentry.schema import (
    MEASUREMENT_COLUMNS,
    REENTRY_SCAN,
    REENTRY_STREAM,
    SCAN_MEASUREMENTS,
    SCAN_TRACK_ID,
    TIMESTAMP,
)

Floats = npt.NDArray[np.float64]

FLIGHTS: Final = 64
"""Number of different flights; a track has one of them."""
STEPS: Final = 600
"""Number of steps of a flight."""

_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)


class Traffic:
    """The requests of all sequences."""

    def __init__(self, config: StreamConfig) -> None:
        """Simulate the flights and encode the prefixes."""
        self._config = config
        flights = draw_flights(min(FLIGHTS, config.tracks), STEPS, seed=config.seed)
        self._flights = np.stack([flight.measurements for flight in flights], axis=1)  # (S, F, M)
        times = self._flights[:, :, _TIME]
        self._period = times[-1] - times[0] + (times[1] - times[0])  # (F,)
        self._name = f"perf-{os.getpid()}"
        # In mode `tracks` a sequence is one track.
        stride = config.sequences
        self._tracks = [np.arange(sequence, config.tracks, stride) for sequence in range(stride)]
        self._flight_of = [tracks % len(flights) for tracks in self._tracks]
        self._prefixes: dict[int, bytes] = {}

    def place_of(self, track: int) -> tuple[int, int]:
        """Return the sequence of a track, and its position in the requests of the sequence."""
        position, sequence = divmod(track, self._config.sequences)
        return sequence, position

    def rows(self, sequence: int, step: int) -> Floats:
        """Return the measurements of a request, (N, M)."""
        cycle, row = divmod(step, STEPS)
        flights = self._flight_of[sequence]
        rows: Floats = self._flights[row, flights]
        if cycle:
            rows[:, _TIME] += cycle * self._period[flights]
        return rows

    def track(self, track: int, steps: int) -> Floats:
        """Return the first measurements of a track, (steps, M)."""
        sequence, position = self.place_of(track)
        return np.stack([self.rows(sequence, step)[position] for step in range(steps)])

    def message(self, sequence: int, step: int) -> bytes:
        """Return the request of a step after the first one."""
        rows = self.rows(sequence, step)
        prefix = self._prefixes.get(sequence)
        if prefix is None:
            prefix = self._prefixes[sequence] = self._encoded(sequence, rows)[: -rows.nbytes]
        return prefix + rows.tobytes()

    def first(self, sequence: int) -> bytes:
        """Return the request that begins a sequence, with the first measurement of each track."""
        return self._encoded(sequence, self.rows(sequence, 0), start=True)

    def last(self, sequence: int) -> bytes:
        """Return the request that ends a sequence, with measurements that change nothing."""
        return self._encoded(sequence, np.full_like(self.rows(sequence, 0), np.nan), end=True)

    def _encoded(self, sequence: int, rows: Floats, *, start: bool = False, end: bool = False) -> bytes:
        # The measurements are the last bytes of the requests of both models.
        flags = SequenceFlags(correlation_id=f"{self._name}/{sequence}", start=start, end=end)
        if self._config.mode == "tracks":
            return row_request(row_head(REENTRY_STREAM, flags), str(sequence), rows[0])
        inputs = {SCAN_TRACK_ID.name: self._tracks[sequence], SCAN_MEASUREMENTS.name: rows}
        return encoded_request(REENTRY_SCAN, inputs, request_id=str(sequence), sequence=flags)
