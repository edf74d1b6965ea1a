"""One flight as arrays.

Shapes: T steps, M measurement columns, N rows of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.schema import MEASUREMENT_COLUMNS, TIMESTAMP

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
