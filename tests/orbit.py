"""A prior of ballistic coefficients, and flights with the results of the orbit filter."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from reentry.drift import REFERENCE_FILE, FeatureReference, Reference
from reentry.features.groups import ORBIT
from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, ORBIT_FEATURES
from reentry.simulation import BallisticConfig, simulate_ballistic
from reentry.simulation.sensors import of_severity

_LIGHT = (COEFFICIENTS > 60.0) & (COEFFICIENTS < 600.0)
_HEAVY = (COEFFICIENTS > 1_500.0) & (COEFFICIENTS < 15_000.0)

PRIOR = np.array(
    [np.where(_LIGHT, 0.25 / _LIGHT.sum(), 0.0) + np.where(_HEAVY, 0.75 / _HEAVY.sum(), 0.0)] * len(SPEEDS)
)
"""Prior of bodies of which a quarter is light, (R, G)."""


def write_reference(folder: Path, prior: np.ndarray | None) -> Path:
    """Write the reference of a version that uses the orbit features into its folder, and return its path."""
    features = {
        name: FeatureReference(edges=(0.0, 1.0), shares=(1.0,), used=name in ORBIT_FEATURES) for name in FEATURES
    }
    rows = None if prior is None else tuple(map(tuple, prior.tolist()))
    reference = Reference(features=features, reentry_share=0.5, orbit_prior=rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    return folder / REFERENCE_FILE


@cache
def labelled_flights(tracks: int = 24) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Measurements (T, M), features (T, F) and labelled onset of simulated flights; shared, read only."""
    table = simulate_ballistic(BallisticConfig(tracks=tracks, seed=5, sensors=of_severity(1)))
    table = table.sort_values(["track_id", "timestamp"], kind="stable")
    found = []
    for _, rows in table.drop_duplicates(list(MEASUREMENT_COLUMNS)).groupby("track_id"):
        flight = rows[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64)
        features = track_features(flight, groups=frozenset([ORBIT]))
        found.append((flight, features, int(rows["reentry_phase"].to_numpy().argmax())))
    return found
