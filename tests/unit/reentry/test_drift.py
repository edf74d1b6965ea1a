"""Tests of the drift of features against a training reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reentry.drift import (
    FEWEST_TRACKS,
    REFERENCE_FILE,
    Drift,
    Reference,
    bin_counts,
    stability_index,
    watched_steps,
)
from reentry.errors import CheckpointError
from reentry.features.track import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, SIMPLE_FEATURES
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.orbit import PRIOR

STEPS = 120


def flights(tracks: int, seed: int) -> np.ndarray:
    """Features of simulated flights, (B, T, F)."""
    config = TrapezoidConfig(tracks=tracks, seed=seed, shortest=STEPS, longest=STEPS, labels=False)
    table = simulate_trapezoid(config)
    return track_features(table[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(tracks, STEPS, -1))


def reference_of(features: np.ndarray, used: tuple[str, ...] = ("altitude_fraction",)) -> Reference:
    rows = features[:, watched_steps(features.shape[1])].reshape(-1, len(FEATURES))
    return Reference.of(rows, np.arange(len(rows)) % 4 == 0, used)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(flights(100, seed=1))


def test_the_index_equals_a_value_computed_by_hand() -> None:
    # (0.5 - 0.25) ln 2 + (0.5 - 0.75) ln(2 / 3)
    expected = 0.25 * np.log(2.0) - 0.25 * np.log(2.0 / 3.0)
    assert stability_index(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(expected)


shares = arrays.arrays(np.float64, 5, elements=st.floats(0.0, 1.0)).filter(lambda x: x.sum() > 0.1)


@given(shares, shares)
def test_the_index_is_symmetric_and_non_negative_and_zero_for_equal_distributions(a: np.ndarray, b: np.ndarray) -> None:
    a, b = a / a.sum(), b / b.sum()
    assert stability_index(a, b) >= 0.0
    assert stability_index(a, b) == pytest.approx(stability_index(b, a))
    assert stability_index(a, a) == 0.0


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(-10, 10, width=32)))
def test_every_value_is_counted_in_exactly_one_bin(values: np.ndarray) -> None:
    edges = np.array([-1.0, 0.0, 1.0])
    counts = bin_counts(values, edges)
    expected = [(values < -1).sum(), ((values >= -1) & (values < 0)).sum(), ((values >= 0) & (values < 1)).sum()]
    assert counts.tolist() == [*expected, (values >= 1).sum()]


@pytest.mark.parametrize("prior", [None, PRIOR])
def test_a_reference_with_and_without_a_prior_survives_json(reference: Reference, prior: np.ndarray | None) -> None:
    rows = None if prior is None else tuple(map(tuple, prior.tolist()))
    content = replace(reference, orbit_prior=rows)
    assert Reference.from_dict(json.loads(json.dumps(content.as_dict()))) == content


def test_the_reference_of_an_earlier_release_has_no_prior(reference: Reference) -> None:
    content = reference.as_dict()
    del content["orbit_prior"]
    assert Reference.from_dict(content).orbit_prior is None


@pytest.mark.parametrize(
    ("prior", "problem"),
    [
        (PRIOR[:, 1:], "shape"),
        (PRIOR[0], "shape"),
        (PRIOR * 2.0, "not a probability distribution"),
        (np.where(PRIOR == 0.0, -1e-9, PRIOR), "not a probability distribution"),
        (PRIOR * np.nan, "not a probability distribution"),
    ],
)
def test_an_invalid_prior_is_refused(reference: Reference, prior: np.ndarray, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem):
        Reference.from_dict(reference.as_dict() | {"orbit_prior": prior.tolist()})


def test_no_training_step_is_outside_the_training_range(reference: Reference) -> None:
    assert tuple(reference.features) == FEATURES
    assert [name for name, feature in reference.features.items() if feature.used] == ["altitude_fraction"]
    assert reference.reentry_share == 0.25
    for feature in reference.features.values():
        assert sum(feature.shares) == pytest.approx(1.0)
        assert list(feature.edges) == sorted(set(feature.edges))
        assert len(feature.shares) == len(feature.edges) - 1
    own = flights(100, seed=1)[:, 1:].reshape(-1, len(FEATURES))
    assert set(Drift(reference).add(own, 100).values()) == {0}


def test_a_constant_feature_has_one_bin_that_is_wider_than_noise(reference: Reference) -> None:
    steps = np.full((1000, len(FEATURES)), 0.5, dtype=np.float32)
    constant = Reference.of(steps, np.zeros(1000), ())
    for change, outside in ((1e-6, 0), (0.1, 1000)):
        assert Drift(constant).add(steps + np.float32(change), 1)["time_step"] == outside


@pytest.mark.parametrize("common", [0.5, 0.0, 2.0])
def test_a_value_of_most_steps_has_its_own_narrow_bin(common: float) -> None:
    steps = np.full((1000, len(FEATURES)), common, dtype=np.float32)
    steps[:5], steps[5:10] = 0.0, 2.0
    edges = np.asarray(Reference.of(steps, np.zeros(1000), ()).features["time_step"].edges)
    counts = bin_counts(np.array([common - 0.01, common, common + 0.01]), edges)
    assert counts.max() == 1, f"{edges} put a value and its neighbours into one bin"
    assert counts[0] + counts[-1] == (common in (0.0, 2.0))


def test_tracks_of_one_step_have_no_index(reference: Reference) -> None:
    drift = Drift(reference)
    drift.add(np.empty((0, len(FEATURES)), dtype=np.float32), FEWEST_TRACKS)
    assert drift.indices() == {}


def test_flights_of_the_training_distribution_do_not_drift(reference: Reference) -> None:
    drift = Drift(reference)
    drift.add(flights(300, seed=2)[:, 1:].reshape(-1, len(FEATURES)), 300)
    assert max(drift.indices().values()) < 0.1


def test_flights_of_twice_the_altitude_drift_and_leave_the_training_range(reference: Reference) -> None:
    drift = Drift(reference)
    changed = flights(100, seed=2)
    changed[..., FEATURES.index("altitude")] *= 2.0
    outside = drift.add(changed.reshape(-1, len(FEATURES)), 100)
    indices = drift.indices()
    assert indices["altitude"] > 0.25
    assert outside["altitude"] > 0.3 * changed[..., 0].size
    assert indices["altitude_fraction"] < 0.1


def test_there_is_no_index_before_the_minimum_number_of_tracks(reference: Reference) -> None:
    drift = Drift(reference)
    track = flights(1, seed=3)[0]
    for _ in range(FEWEST_TRACKS - 1):
        drift.add(track, 1)
    assert drift.indices() == {}
    drift.add(track, 1)
    assert set(drift.indices()) == set(SIMPLE_FEATURES)


def test_only_robust_features_that_the_network_uses_are_watched() -> None:
    steps = flights(100, seed=1).reshape(-1, len(FEATURES))
    drift = Drift(Reference.of(steps, np.zeros(len(steps)), ("altitude", "drag_long")))
    assert drift.watched == (*SIMPLE_FEATURES, "drag_long")
    moved = steps.copy()
    moved[:, FEATURES.index("drag_long")] = steps.max() + 1.0
    assert drift.add(moved, 100) == dict.fromkeys(SIMPLE_FEATURES, 0) | {"drag_long": len(steps)}


def test_drift_of_old_tracks_is_forgotten(reference: Reference) -> None:
    drift = Drift(reference)
    drift.add(flights(100, seed=2).reshape(-1, len(FEATURES)) * np.float32(3.0), 100)
    worst = max(drift.indices().values())
    drift.add(flights(300, seed=4)[:, 1:].reshape(-1, len(FEATURES)), 5000)
    assert max(drift.indices().values()) < 0.1 < 0.25 < worst


def test_a_reference_loads_as_it_was_saved(reference: Reference, tmp_path: Path) -> None:
    assert Reference.load(tmp_path) is None
    (tmp_path / REFERENCE_FILE).write_text(json.dumps(reference.as_dict()))
    assert Reference.load(tmp_path) == reference


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1, "features": ["x"]}'])
def test_an_invalid_reference_is_rejected_with_its_path_and_a_fix(tmp_path: Path, content: str) -> None:
    (tmp_path / REFERENCE_FILE).write_text(content)
    with pytest.raises(CheckpointError) as error:
        Reference.load(tmp_path)
    assert error.value.where == str(tmp_path / REFERENCE_FILE)
    assert error.value.fix == "export the version again"


def test_a_reference_of_another_schema_version_is_rejected(reference: Reference) -> None:
    with pytest.raises(CheckpointError, match="another schema version"):
        Reference.from_dict(replace(reference, schema_version=99).as_dict())
