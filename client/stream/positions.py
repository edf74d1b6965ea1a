"""Latest position of each track of a feed, for those who watch it.

Shapes: N measurements of one scan, M measurement columns.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client.stream.alert import Answers
from reentry.schema import ALTITUDE, LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, TIMESTAMP

MOST: Final = 2_000
"""Largest number of positions that are taken at once. With more tracks they take turns."""
_PENDING: Final = 50_000
"""Measurements after which only the latest of each track is kept."""
_TRACKS: Final = 20_000
"""Largest number of tracks whose positions wait."""

_SHOWN: Final = {
    column.name: MEASUREMENT_COLUMNS.index(column.name) for column in (TIMESTAMP, LATITUDE, LONGITUDE, ALTITUDE)
}
_POSITION: Final = np.dtype(
    [("track_id", np.int64)]
    + [(name, np.float64) for name in (*_SHOWN, "probability", "onset_timestamp")]
    + [("phase", np.uint8), ("model_version", np.int64)]
)


class Positions:
    """Positions that were not taken yet."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[Any]] = []
        self._count = 0
        self._last = np.iinfo(np.int64).min
        """Track of the position that was taken last."""

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, track_ids: npt.NDArray[np.int64], rows: npt.NDArray[np.float64], answers: Answers) -> None:
        """Add the accepted measurements of a scan, (N,) and (N, M)."""
        part = np.empty(len(track_ids), _POSITION)
        part["track_id"] = track_ids
        for name, column in _SHOWN.items():
            part[name] = rows[:, column]
        for name in ("probability", "onset_timestamp", "phase", "model_version"):
            part[name] = getattr(answers, name)
        part = part[answers.accepted != 0]
        if len(part):
            self._parts.append(part)
            self._count += len(part)
            if self._count > _PENDING:
                self._keep_latest()

    def take(self) -> list[dict[str, Any]]:
        """Remove up to `MOST` positions and return them in the form of the gateway's updates."""
        self._keep_latest()
        (every,) = self._parts or [np.empty(0, _POSITION)]
        following = int(np.searchsorted(every["track_id"], self._last, side="right"))
        order = np.roll(np.arange(len(every)), -following)
        taken, left = every[order[:MOST]], every[np.sort(order[MOST:])]
        self._parts, self._count = [left], len(left)
        if len(taken):
            self._last = taken["track_id"][-1]
        names = _POSITION.names or ()
        return [_update(dict(zip(names, values, strict=True))) for values in taken.tolist()]

    def _keep_latest(self) -> None:
        """Keep the latest position of each track, in the order of the tracks."""
        if not self._parts:
            return
        every = np.concatenate(self._parts)
        _, behind = np.unique(every["track_id"][::-1], return_index=True)
        latest = every[len(every) - 1 - behind]
        if len(latest) > _TRACKS:
            latest = latest[np.sort(np.argsort(latest["timestamp"], kind="stable")[-_TRACKS:])]
        self._parts, self._count = [latest], len(latest)


def _update(position: dict[str, Any]) -> dict[str, Any]:
    onset = position["onset_timestamp"]
    return position | {
        "probability": round(position["probability"], 4),
        "onset_timestamp": onset if onset >= 0.0 else None,
        "model_version": position["model_version"] or None,
    }
