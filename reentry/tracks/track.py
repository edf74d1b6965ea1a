"""One track as arrays.

Shapes: T steps, M measurement columns, N rows of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, SENSOR_ID, TIMESTAMP, TRACK_COLUMNS, TRACK_ID

_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One repaired track in time order, the input of every later stage."""

    track_id: int
    measurements: npt.NDArray[np.float64]
    """Measurements, (T, M), with the columns of `schema.MEASUREMENT_COLUMNS`; finite, with non-decreasing time."""
    reentry_phase: npt.NDArray[np.int8] | None
    """Labels, (T,), 0 or 1; None if the file has no labels."""
    rows: npt.NDArray[np.int64]
    """Zero-based numbers, (N,), of the file's rows that belong to this track, in time order."""
    steps: npt.NDArray[np.int64]
    """Step, (N,), that each row became. Duplicate rows share a step; an interpolated step has no row."""

    def __len__(self) -> int:
        return len(self.measurements)

    @property
    def timestamp(self) -> npt.NDArray[np.float64]:
        """Unix time of each step, (T,), s."""
        return self.measurements[:, _TIME]


def tracks_table(tracks: Sequence[Track]) -> pd.DataFrame:
    """Return tracks as a table in the file format, with labels if every track has them."""
    cells = np.concatenate([track.measurements for track in tracks])
    columns = dict(zip(MEASUREMENT_COLUMNS, cells.T, strict=True))
    columns[SENSOR_ID.name] = columns[SENSOR_ID.name].astype(np.int64)
    columns[TRACK_ID.name] = np.repeat([track.track_id for track in tracks], [len(track) for track in tracks])
    table = pd.DataFrame(columns)[[column.name for column in TRACK_COLUMNS]]
    labels = [track.reentry_phase for track in tracks if track.reentry_phase is not None]
    if len(labels) == len(tracks):
        table[REENTRY_PHASE.name] = np.concatenate(labels)
    return table
