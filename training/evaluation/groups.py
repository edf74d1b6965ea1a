"""Figures by kind of flight: how far it went, how many sensors saw it, where its file says it is from.

A track's range is the great circle from its first measurement to its last, so what was seen of the flight, not what was
flown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reentry.decision import DecisionConfig
from reentry.schema import LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, SENSOR_ID
from reentry.tracks import Track
from training.evaluation.metrics import Metrics, Prediction, score

EARTH_RADIUS_KM: Final = 6371.0
"""Mean, of a sphere."""
RANGE_CLASSES: Final = (
    (1_000.0, "below 1,000 km"),
    (3_500.0, "1,000 to 3,500 km"),
    (5_500.0, "3,500 to 5,500 km"),
    (np.inf, "5,500 km and more"),
)
"""Upper bound of each, km, and its name: short, medium, intermediate and intercontinental range."""
MOST_SENSORS: Final = 6
"""This many and more are one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tracks of one kind."""

    by: str
    """What sets them apart."""
    name: str
    metrics: Metrics


def range_km(track: Track) -> float:
    """Great circle from the first measurement to the last, by the haversine formula."""
    columns = [MEASUREMENT_COLUMNS.index(column.name) for column in (LATITUDE, LONGITUDE)]
    (lat_1, lon_1), (lat_2, lon_2) = np.radians(track.measurements[[0, -1]][:, columns])
    chord = np.sin((lat_2 - lat_1) / 2) ** 2 + np.cos(lat_1) * np.cos(lat_2) * np.sin((lon_2 - lon_1) / 2) ** 2
    return float(2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(1.0, chord))))


def range_class(track: Track) -> str:
    """The class of its range."""
    distance = range_km(track)
    return next(name for bound, name in RANGE_CLASSES if distance < bound)


def sensors(track: Track) -> str:
    """How many sensors saw it."""
    count = len(np.unique(track.measurements[:, MEASUREMENT_COLUMNS.index(SENSOR_ID.name)]))
    return f"{MOST_SENSORS} and more" if count >= MOST_SENSORS else str(count)


def by_group(
    predictions: Sequence[Prediction], decision: DecisionConfig, origin: Mapping[str, Any] | None
) -> list[Group]:
    """Figures of each group that has tracks; one with all of them for what a whole file has in common.

    Args:
        predictions: at least one, of labelled tracks.
        decision: the thresholds.
        origin: of their file, see `origin_of`; None where it does not say.
    """
    said = {by: str((origin or {}).get(by, "not said")) for by in ("profile", "severity")}
    ways: list[tuple[str, Callable[[Track], str], Sequence[str]]] = [
        ("profile", lambda _: said["profile"], ()),
        ("severity", lambda _: said["severity"], ()),
        ("range", range_class, [name for _, name in RANGE_CLASSES]),
        ("sensors", sensors, [*map(str, range(1, MOST_SENSORS)), f"{MOST_SENSORS} and more"]),
    ]
    groups = []
    for by, name_of, order in ways:
        members: dict[str, list[Prediction]] = {name: [] for name in order}
        for prediction in predictions:
            members.setdefault(name_of(prediction.track), []).append(prediction)
        groups += [
            Group(by=by, name=name, metrics=score(of_name, decision)) for name, of_name in members.items() if of_name
        ]
    return groups
