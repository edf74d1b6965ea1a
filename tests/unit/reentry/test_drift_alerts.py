"""Tests that the faults which the runbook lists trigger its drift alerts, from training to the exported metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reentry.drift import Reference
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, SIMPLE_FEATURES
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import read_tracks, write_tracks
from reentry.triton import telemetry
from tests.unit.reentry.triton.test_telemetry import Backend, install, record, track_metrics
from training.data.reference import reference_of
from training.data.samples import samples_of

TRACKS = 100
USED = ("altitude_fraction",)
DRIFTED = 0.25
"""Threshold of the alert ReentryDrift for the index."""
OUTSIDE = 0.05
"""Threshold of the alert ReentryOutOfRange for the share of steps."""


def flights(seed: int) -> pd.DataFrame:
    """Flights of the trapezoid profile with a time step of 0.5 s."""
    return simulate_trapezoid(TrapezoidConfig(tracks=TRACKS, seed=seed, shortest=200, longest=400))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Reference of a training split."""
    path = tmp_path_factory.mktemp("trained") / "tracks.parquet"
    write_tracks(path, [flights(seed=1)])
    with read_tracks(path, labelled=True) as file:
        return reference_of(samples_of(list(file), where=str(path), groups=frozenset()), USED)


@pytest.fixture
def served(reference: Reference, tmp_path: Path) -> Callable[[pd.DataFrame], tuple[dict[str, float], dict[str, float]]]:
    """Function that records tracks, and returns the index and the share of out-of-range steps of each feature."""
    install(tmp_path, 1, reference)

    def serve(table: pd.DataFrame) -> tuple[dict[str, float], dict[str, float]]:
        backend = Backend()
        metrics = track_metrics(backend, tmp_path)
        for _, track in table.groupby("track_id"):
            record(
                metrics, track_features(track[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64), groups=frozenset())[None]
            )
        metrics.flush()
        values = dict(backend.values)
        metrics.close()
        checked = values[telemetry.CHECKED_STEPS.name,]
        indices = {key[1]: value for key, value in values.items() if key[0] == telemetry.STABILITY_INDEX.name}
        outside = {key[1]: value / checked for key, value in values.items() if key[0] == telemetry.OUT_OF_RANGE.name}
        return indices, outside

    return serve


def in_feet(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(altitude=table["altitude"] * 3.28084)


def in_kilometres(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(altitude=table["altitude"] / 1000.0)


def slower(table: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Change the sampling rate of the same rows."""
    first = table.groupby("track_id")["timestamp"].transform("min")
    return table.assign(timestamp=first + (table["timestamp"] - first) * factor)


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(latitude=table["longitude"], longitude=table["latitude"])


def in_radians(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(latitude=np.radians(table["latitude"]), longitude=np.radians(table["longitude"]))


def jumping_clock(table: pd.DataFrame) -> pd.DataFrame:
    """Delay every tenth time by 0.499 s, almost to the next one."""
    late = table.groupby("track_id").cumcount() % 10 == 3
    return table.assign(timestamp=table["timestamp"] + 0.499 * late)


def brighter(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(radiometric_intensity=table["radiometric_intensity"] * 100.0)


def climbs(table: pd.DataFrame) -> pd.DataFrame:
    """Keep only the climb of each flight: another distribution, though every value is in the training range."""
    return table[table.index < table.groupby("track_id")["altitude"].transform("idxmax")]


def test_flights_of_the_training_distribution_trigger_no_alert(
    served: Callable[..., tuple[dict[str, float], dict[str, float]]],
) -> None:
    indices, outside = served(flights(seed=2))
    assert set(indices) == set(SIMPLE_FEATURES)
    assert max(indices.values()) < 0.15
    assert max(outside.values()) < 0.02


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (in_feet, "altitude"),
        (lambda table: slower(table, 0.2), "time_step"),
        (lambda table: slower(table, 0.9), "time_step"),
        (lambda table: slower(table, 4.0), "time_step"),
        (swapped, "ground_speed"),
        (in_radians, "ground_speed"),
        (jumping_clock, "time_step"),
        (brighter, "intensity"),
    ],
    ids=["feet", "0.1 s", "0.45 s", "2 s", "swapped coordinates", "radians", "jumping clock", "intensity"],
)
def test_a_change_of_the_source_leaves_the_training_range_of_its_feature(
    change: Callable[[pd.DataFrame], pd.DataFrame],
    feature: str,
    served: Callable[..., tuple[dict[str, float], dict[str, float]]],
) -> None:
    indices, outside = served(change(flights(seed=2)))
    assert outside[feature] > OUTSIDE
    assert indices[feature] > DRIFTED


@pytest.mark.parametrize(("change", "feature"), [(in_kilometres, "altitude"), (climbs, "altitude_fraction")])
def test_a_change_within_the_training_range_raises_the_index(
    change: Callable[[pd.DataFrame], pd.DataFrame],
    feature: str,
    served: Callable[..., tuple[dict[str, float], dict[str, float]]],
) -> None:
    indices, outside = served(change(flights(seed=2)))
    assert indices[feature] > DRIFTED
    assert outside[feature] < OUTSIDE


def test_another_sampling_rate_raises_only_the_index_of_features_that_depend_on_it(
    served: Callable[..., tuple[dict[str, float], dict[str, float]]],
) -> None:
    indices, _ = served(slower(flights(seed=2), 0.2))
    assert indices["time_step"] > 5.0
    assert max(indices[name] for name in ("altitude", "altitude_fraction", "intensity")) < 0.15


def test_the_first_step_of_a_track_is_not_in_the_reference(reference: Reference) -> None:
    time_step = reference.features["time_step"]
    assert time_step.edges[0] > 0.49
    assert time_step.edges[-1] < 0.51
    assert set(reference.features) == set(FEATURES)
