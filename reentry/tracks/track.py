"""One flight as arrays.

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
    """One flight, by time, after repair: what every stage works on."""

    track_id: int
    measurements: npt.NDArray[np.float64]
    """(T, M), columns as `schema.MEASUREMENT_COLUMNS`; finite, time never falls."""
    reentry_phase: npt.NDArray[np.int8] | None
    """(T,), 0 or 1; None where the file has no labels."""
    rows: npt.NDArray[np.int64]
    """(N,), the zero-based data rows of the file that belong to this track, in time order."""
    steps: npt.NDArray[np.int64]
    """(N,), the step each of these rows became: a repeated row shares one, a step filled into a gap has no row."""

    def __len__(self) -> int:
        return len(self.measurements)

    @property
    def timestamp(self) -> npt.NDArray[np.float64]:
        """(T,), s."""
        return self.measurements[:, _TIME]


def tracks_table(tracks: Sequence[Track]) -> pd.DataFrame:
    """Tracks as the table that reading would give them back from; with labels where all have them."""
    cells = np.concatenate([track.measurements for track in tracks])
    columns = dict(zip(MEASUREMENT_COLUMNS, cells.T, strict=True))
    columns[SENSOR_ID.name] = columns[SENSOR_ID.name].astype(np.int64)
    columns[TRACK_ID.name] = np.repeat([track.track_id for track in tracks], [len(track) for track in tracks])
    table = pd.DataFrame(columns)[[column.name for column in TRACK_COLUMNS]]
    labels = [track.reentry_phase for track in tracks if track.reentry_phase is not None]
    if len(labels) == len(tracks):
        table[REENTRY_PHASE.name] = np.concatenate(labels)
    return table
