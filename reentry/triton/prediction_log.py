"""Prediction log of the server: one JSON line for each track that was scored.

The environment variable `REENTRY_PREDICTION_LOG` names the file. If it is not set, the lines go to standard error, as
container logs do. Several processes may share a file: it is opened for appending, and each batch of lines is one write.

Shapes: B tracks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.decision import NO_ONSET
from reentry.refinement import RefinedOnset

ENVIRONMENT_VARIABLE: Final = "REENTRY_PREDICTION_LOG"


class PredictionLog:
    """Collects lines in memory until `write` appends them in a single system call."""

    def __init__(self, sink: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a log.

        Args:
            sink: open file descriptor that the lines are written to.
            clock: clock that `started_at` is measured with, s.
        """
        self._sink = sink
        self._clock = clock
        self._lines: list[str] = []

    @classmethod
    def from_environment(cls) -> PredictionLog:
        """Open the file that `REENTRY_PREDICTION_LOG` names, or standard error."""
        name = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls.open(Path(name)) if name else cls(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2))

    @classmethod
    def open(cls, path: Path) -> PredictionLog:
        """Open the file `path` for appending."""
        return cls(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))

    def add(
        self,
        *,
        track_id: npt.NDArray[np.integer[Any]],
        rows: npt.NDArray[np.integer[Any]],
        onset_step: npt.NDArray[np.integer[Any]],
        onset_timestamp: npt.NDArray[np.float64],
        model_version: npt.NDArray[np.integer[Any]],
        refinement: Sequence[RefinedOnset | None] | None = None,
        started_at: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Add a line for each track; all arrays are (B,).

        The columns of the refined onset are null for a track without one, and if `refinement` is None.
        The inference time runs from the start of the feature computation until now. It includes the queues between the
        models, but neither the queue before the features nor the transfer to the client. It is null if `started_at` is
        None, because no model saw the start.
        """
        now = self._clock()
        inference = ["null"] * len(track_id)
        if started_at is not None:
            inference = [f"{1e3 * (now - started):.3f}" for started in started_at.tolist()]
        time_of_day = datetime.now(UTC).isoformat(timespec="milliseconds")
        refined = refinement or [None] * len(track_id)
        columns = (column.tolist() for column in (track_id, rows, onset_step, onset_timestamp, model_version))
        for track, steps, onset, onset_time, version, found, milliseconds in zip(
            *columns, refined, inference, strict=True
        ):
            step, timestamp = ("null", "null") if onset == NO_ONSET else (onset, onset_time)
            refined_timestamp, deviation, hindsight = ("null", "null", "null") if found is None else found
            # JSON as text, because json.dumps takes several times as long.
            self._lines.append(
                f'{{"time": "{time_of_day}", "track_id": {track}, "rows": {steps}, "onset_step": {step}, '
                f'"onset_timestamp": {timestamp}, "refined_onset_timestamp": {refined_timestamp}, '
                f'"refined_onset_deviation": {deviation}, "hindsight_seconds": {hindsight}, '
                f'"inference_ms": {milliseconds}, "model_version": {version}}}\n'
            )

    def write(self) -> None:
        """Write the collected lines."""
        if self._lines:
            os.write(self._sink, "".join(self._lines).encode())
            self._lines.clear()

    def close(self) -> None:
        """Write the collected lines, and close the file."""
        self.write()
        os.close(self._sink)
