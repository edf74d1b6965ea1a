"""A file of tracks, one track after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd

from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, TRACK_ID
from reentry.tracks.track import Track


class TrackFile:
    """The tracks of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = pd.read_csv(path, float_precision="round_trip")
        self.row_count = len(self._table)
        self.track_count = int(self._table[TRACK_ID.name].nunique())

    def __enter__(self) -> TrackFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __iter__(self) -> Iterator[Track]:
        for track_id, table in self._table.groupby(TRACK_ID.name, sort=False):
            labels = table.get(REENTRY_PHASE.name)
            yield Track(
                track_id=int(str(track_id)),
                measurements=table[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64),
                reentry_phase=None if labels is None else labels.to_numpy(np.int8),
                rows=table.index.to_numpy(np.int64),
                steps=np.arange(len(table), dtype=np.int64),
            )


def read_tracks(path: Path, *, labelled: bool = False) -> TrackFile:
    """Open a file of tracks."""
    return TrackFile(path)
