"""Drift of one number per track: the server's stability index, and the Kolmogorov-Smirnov test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from gateway.comparison.drift import (
    FEATURE_STRIDE,
    FEWEST_FOR_INDEX,
    LARGE_INDEX,
    QuantityDrift,
    Sample,
    drift_of,
    feature_numbers,
    ks_p_value,
    ks_statistic,
    psi,
    sample_of,
)
from reentry.drift import Drift
from reentry.features.track import track_features
from reentry.schema import FEATURES, SIMPLE_FEATURES
from tests.integration.test_serving import make_tracks
from tests.unit.reentry.test_drift import flights, reference_of


def rows(count: int, *, seed: int, peak: float = 2e5, **quantities: Any) -> list[Mapping[str, Any]]:
    """Rows of the inference log whose peak altitudes are normally distributed around `peak`."""
    generator = default_rng(seed)
    return [
        {
            "steps": 100,
            "first_timestamp": 1_000.0,
            "last_timestamp": 1_000.0 + 99.0 * generator.normal(1.0, 0.05),
            "peak_altitude": generator.normal(peak, 2e4),
            "largest_probability": generator.beta(8.0, 1.0),
            "quantities": {name: draw(generator) for name, draw in quantities.items()},
        }
        for _ in range(count)
    ]


def by_name(found: list[QuantityDrift]) -> dict[str, QuantityDrift]:
    return {each.quantity: each for each in found}


def test_the_features_of_a_step_are_those_of_the_whole_track() -> None:
    track = make_tracks(1, 200)[0]
    features = track_features(track)[:, : len(SIMPLE_FEATURES)]
    found = feature_numbers([track] * 500, range(500))
    chosen = [numbers for numbers in found if numbers]
    assert abs(len(chosen) - 500 / FEATURE_STRIDE) < 15
    steps = []
    for numbers in chosen:
        assert tuple(numbers) == SIMPLE_FEATURES == FEATURES[: len(SIMPLE_FEATURES)]
        (step,) = np.flatnonzero((features == np.float32(list(numbers.values()))).all(axis=1))
        steps.append(step)
    assert 1 <= min(steps) < 60 < 140 < max(steps) < 200
    single = next(track_id for track_id in range(500) if found[track_id])
    assert feature_numbers([track[:1]], [single]) == [{}]


def test_the_features_of_a_track_do_not_depend_on_the_tracks_beside_it() -> None:
    tracks = [make_tracks(1, length)[0] for length in (2, 60, 64, 65, 190, 200)] * 50
    together = feature_numbers(tracks, range(len(tracks)))
    alone = [feature_numbers([track], [track_id])[0] for track_id, track in enumerate(tracks)]
    assert together == alone
    assert sum(map(bool, together)) > 5


def test_the_index_of_one_step_per_track_is_that_of_the_server() -> None:
    reference = reference_of(flights(400, seed=1))
    tracks = flights(4_000, seed=2) * np.float32(1.05)
    server = Drift(reference)
    server.add(tracks.reshape(-1, len(FEATURES)), len(tracks))
    drawn = tracks[np.arange(len(tracks)), default_rng(3).integers(1, tracks.shape[1], len(tracks))]
    for name in ("climb_rate", "altitude"):
        values = drawn[:, FEATURES.index(name)].astype(float)
        sample = Sample(values=values, weights=np.ones(len(values)))
        assert psi(sample, reference.features[name]) == pytest.approx(server.indices()[name], rel=0.1, abs=0.02)


def test_a_track_counts_by_its_steps() -> None:
    reference = reference_of(flights(400, seed=1)).features["altitude"]
    low, high = reference.edges[1] - 1e-3, reference.edges[-2] + 1e-3
    sample = Sample(values=np.array([low, high]), weights=np.array([300.0, 100.0]))
    twice = Sample(values=np.array([low, low, low, high]), weights=np.ones(4))
    assert psi(sample, reference) == pytest.approx(psi(twice, reference))
    assert sample_of("altitude", rows(2, seed=1, altitude=lambda _: 5.0)).weights.tolist() == [99.0, 99.0]
    assert sample_of("steps", rows(2, seed=1)).weights.tolist() == [1.0, 1.0]


def test_a_day_like_the_first_ones_has_no_drift_and_another_one_has() -> None:
    baseline = rows(1_000, seed=1)
    same = by_name(drift_of(rows(500, seed=2), baseline, None))
    moved = by_name(drift_of(rows(500, seed=3, peak=2.3e5), baseline, None))
    for name in ("peak_altitude", "duration", "largest_probability"):
        assert same[name].stability_index < 0.1
        assert same[name].p_value > 0.05
    assert same["time_step"].tracks == 500
    assert (same["peak_altitude"].is_large, moved["peak_altitude"].is_large) == (False, True)
    assert moved["peak_altitude"].stability_index > LARGE_INDEX
    assert moved["peak_altitude"].p_value < 1e-6
    assert moved["peak_altitude"].compared_with == "first tracks"
    assert moved["duration"].p_value > 0.05


def test_features_are_compared_with_the_training_data_if_there_is_a_reference() -> None:
    reference = reference_of(flights(400, seed=1))
    steps = flights(300, seed=2)[:, 40]

    def like(factor: float) -> list[Mapping[str, Any]]:
        return [
            row | {"quantities": {name: float(step[FEATURES.index(name)]) * factor for name in SIMPLE_FEATURES}}
            for row, step in zip(rows(300, seed=1), steps, strict=True)
        ]

    found = by_name(drift_of(like(10.0), [], reference))["intensity"]
    assert (found.compared_with, found.tracks, found.is_large) == ("training", 300, True)
    assert (found.ks_statistic, found.p_value) == (None, None)  # there are no first tracks
    assert by_name(drift_of(like(1.0), [], None))["intensity"].stability_index is None


def test_too_few_tracks_have_no_index() -> None:
    found = by_name(drift_of(rows(FEWEST_FOR_INDEX - 1, seed=1), rows(1_000, seed=2), None))["peak_altitude"]
    assert found.stability_index is None
    assert found.p_value > 0.05
    found = by_name(drift_of(rows(20, seed=1), rows(1_000, seed=2), None))["peak_altitude"]
    assert (found.stability_index, found.ks_statistic, found.p_value, found.tracks) == (None, None, None, 20)
    assert by_name(drift_of([], [], None))["steps"].tracks == 0


def test_the_statistic_and_its_probability_are_those_of_the_definition() -> None:
    assert ks_statistic(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) == 0.0
    assert ks_statistic(np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])) == 1.0
    assert ks_statistic(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.5, 5.0])) == 0.5
    # Quantiles of Kolmogorov's distribution: Q(1.3581) = 0.05, Q(1.6276) = 0.01, Q(1.2238) = 0.10.
    for x, p in ((1.3581, 0.05), (1.6276, 0.01), (1.2238, 0.10)):
        size = 2_000_000
        root = np.sqrt(size / 2.0)
        assert ks_p_value(x / (root + 0.12 + 0.11 / root), size, size) == pytest.approx(p, abs=1e-4)
    assert (ks_p_value(0.0, 100, 100), ks_p_value(1.0, 100, 100)) == (1.0, pytest.approx(0.0, abs=1e-12))


def test_the_test_of_one_number_per_track_holds_its_level() -> None:
    generator = default_rng(5)
    p_values = []
    for _ in range(1_000):
        one, other = generator.normal(size=80), generator.normal(size=300)
        p_values.append(ks_p_value(ks_statistic(one, other), len(one), len(other)))
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.02)
