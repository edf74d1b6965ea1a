"""The server's prediction log: one JSON line per track it answered.

`REENTRY_PREDICTION_LOG` names the file. Unset, lines go to standard error, where a container's logs are read. Several
processes may write one file: it is opened for appending and each batch of lines is one write.

Shapes: B tracks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.decision import NO_ONSET

ENVIRONMENT_VARIABLE: Final = "REENTRY_PREDICTION_LOG"


class PredictionLog:
    """Lines wait until `write`, which hands them over in one piece."""

    def __init__(self, sink: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to the open file descriptor `sink`; `clock` is the one that `started_at` was read from."""
        self._sink = sink
        self._clock = clock
        self._lines: list[str] = []

    @classmethod
    def from_environment(cls) -> PredictionLog:
        """The log that `REENTRY_PREDICTION_LOG` names."""
        name = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls.open(Path(name)) if name else cls(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2))

    @classmethod
    def open(cls, path: Path) -> PredictionLog:
        """Append to the file `path`."""
        return cls(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))

    def add(
        self,
        *,
        track_id: npt.NDArray[np.integer[Any]],
        rows: npt.NDArray[np.integer[Any]],
        onset_step: npt.NDArray[np.integer[Any]],
        onset_timestamp: npt.NDArray[np.float64],
        model_version: npt.NDArray[np.integer[Any]],
        started_at: npt.NDArray[np.float64],
    ) -> None:
        """Keep a line for each track; all (B,).

        The inference time runs from the moment the server took the track up (its features) to now: it holds the waiting
        between the models, not the waiting before them, nor the way to the client.
        """
        now = self._clock()
        time_of_day = datetime.now(UTC).isoformat(timespec="milliseconds")
        columns = (track_id, rows, onset_step, onset_timestamp, model_version, started_at)
        for track, steps, onset, at, version, started in zip(*(c.tolist() for c in columns), strict=True):
            line = {
                "time": time_of_day,
                "track_id": track,
                "rows": steps,
                "onset_step": None if onset == NO_ONSET else onset,
                "onset_timestamp": None if onset == NO_ONSET else at,
                "inference_ms": round(1e3 * (now - started), 3),
                "model_version": version,
            }
            self._lines.append(json.dumps(line) + "\n")

    def write(self) -> None:
        """Hand the waiting lines over."""
        if self._lines:
            os.write(self._sink, "".join(self._lines).encode())
            self._lines.clear()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.write()
        os.close(self._sink)
