"""Metrics by kind of flight: range, number of sensors, and the simulation settings of the file.

The range of a track is the great-circle distance from its first measurement to its last. It is the range that was
observed, which may be shorter than the range that was flown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reentry.decision import DecisionConfig
from reentry.schema import LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, SENSOR_ID
from reentry.tracks import Track
from training.evaluation.metrics import Metrics, Prediction, score

EARTH_RADIUS_KM: Final = 6371.0
"""Mean radius of the Earth as a sphere."""
RANGE_CLASSES: Final = (
    (1_000.0, "below 1,000 km"),
    (3_500.0, "1,000 to 3,500 km"),
    (5_500.0, "3,500 to 5,500 km"),
    (np.inf, "5,500 km and more"),
)
"""Upper bound, km, and name of each class: short, medium, intermediate and intercontinental range."""
MOST_SENSORS: Final = 6
"""Tracks seen by this many sensors or more are one group."""
_SENSOR_COLUMN: Final = MEASUREMENT_COLUMNS.index(SENSOR_ID.name)
_SENSOR_COUNTS: Final = (*map(str, range(1, MOST_SENSORS)), f"{MOST_SENSORS} and more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Metrics of the tracks of one kind."""

    by: str
    """Property that the group shares, such as "range"."""
    name: str
    """Value of that property, such as "below 1,000 km"."""
    metrics: Metrics


def range_km(track: Track) -> float:
    """Great-circle distance from the first measurement to the last, by the haversine formula."""
    columns = [MEASUREMENT_COLUMNS.index(column.name) for column in (LATITUDE, LONGITUDE)]
    (lat_1, lon_1), (lat_2, lon_2) = np.radians(track.measurements[[0, -1]][:, columns])
    chord = np.sin((lat_2 - lat_1) / 2) ** 2 + np.cos(lat_1) * np.cos(lat_2) * np.sin((lon_2 - lon_1) / 2) ** 2
    return float(2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(1.0, chord))))


def range_class(track: Track) -> str:
    """Name of the track's range class."""
    distance = range_km(track)
    return next(name for bound, name in RANGE_CLASSES if distance < bound)


def sensors(track: Track) -> str:
    """Number of sensors that saw the track, as the name of its group."""
    return _SENSOR_COUNTS[min(len(np.unique(track.measurements[:, _SENSOR_COLUMN])), MOST_SENSORS) - 1]


def by_group(
    predictions: Sequence[Prediction], decision: DecisionConfig, origin: Mapping[str, Any] | None
) -> list[Group]:
    """Metrics of each group that has tracks. All tracks are one group by a property of the whole file.

    Args:
        predictions: predictions for labelled tracks, at least one.
        decision: thresholds that turn probabilities into phases.
        origin: simulation settings of the tracks' file, see `origin_of`; None if unknown.
    """
    members: dict[tuple[str, str], list[Prediction]] = {
        (by, str((origin or {}).get(by, "unknown"))): list(predictions) for by in ("profile", "severity")
    }
    for by, group_of, names in (
        ("range", range_class, [name for _, name in RANGE_CLASSES]),
        ("sensors", sensors, _SENSOR_COUNTS),
    ):
        members |= {(by, name): [] for name in names}
        for prediction in predictions:
            members[by, group_of(prediction.track)].append(prediction)
    return [Group(by=by, name=name, metrics=score(group, decision)) for (by, name), group in members.items() if group]
