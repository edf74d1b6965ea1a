"""The known path: exact onsets without noise, larger errors with more noise."""

from __future__ import annotations

import numpy as np
import pytest

from reentry.decision import DecisionConfig
from reentry.simulation import ballistic
from reentry.simulation.ballistic import BallisticConfig, simulate_ballistic
from reentry.simulation.sensors import SensorConfig
from reentry.tracks import Track
from tests.flights import fly_once
from training.data.samples import Sample, samples_of
from training.evaluation.metrics import Prediction, score
from training.studies.known_path import known_path

FLIGHTS = 24


@pytest.fixture(autouse=True)
def _flown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fly the shots once for all tests, which differ in the sensors only."""
    monkeypatch.setattr(ballistic, "fly", fly_once)


def seen(sensors: SensorConfig) -> tuple[list[Sample], BallisticConfig]:
    """Samples of flights as these sensors see them, with rows in order of time, and the simulation settings."""
    config = BallisticConfig(tracks=FLIGHTS, seed=4, sensors=sensors)
    table = simulate_ballistic(config).sort_values(["track_id", "timestamp"], kind="stable")
    names = ["timestamp", "latitude", "longitude", "altitude", "radiometric_intensity", "sensor_id"]
    tracks = [
        Track(
            track_id=int(str(number)),
            measurements=rows[names].to_numpy(dtype=np.float64),
            reentry_phase=rows["reentry_phase"].to_numpy(dtype=np.int8),
            rows=np.arange(len(rows)),
            steps=np.arange(len(rows)),
        )
        for number, rows in table.groupby("track_id")
    ]
    return samples_of(tracks, where="here", groups=frozenset()), config


def onset_rmse(predictions: list[Prediction]) -> float:
    return score(predictions, DecisionConfig()).onset_rmse


def test_every_onset_is_found_to_the_step_without_noise() -> None:
    samples, config = seen(SensorConfig())
    predictions = known_path(samples, config)
    assert [p.track.track_id for p in predictions] == list(range(FLIGHTS))
    assert score(predictions, DecisionConfig()).onset_within_step == 1.0
    assert onset_rmse(predictions) < 0.5


def test_errors_grow_with_noise_up_to_the_spread_of_the_prior() -> None:
    errors = []
    for noise in (0.0, 30.0, 3e3, 9e4):
        samples, config = seen(SensorConfig(position_noise=(noise, noise)))
        errors.append(onset_rmse(known_path(samples, config)))
    assert errors[0] < 0.3 * errors[1]
    assert errors[1] < errors[2]
    assert errors[3] == pytest.approx(errors[2], rel=0.3)  # the measurements add nothing to the prior


def test_bias_clock_offsets_and_outliers_add_little_error() -> None:
    samples, config = seen(SensorConfig(position_noise=(20.0, 20.0)))
    clean = onset_rmse(known_path(samples, config))
    samples, config = seen(
        SensorConfig(position_noise=(20.0, 20.0), position_bias=300.0, clock_offset=0.1, outliers=0.01, sensors=(2, 3))
    )
    assert onset_rmse(known_path(samples, config)) < 1.5 * clean


def test_probabilities_rise_only_near_the_onset() -> None:
    samples, config = seen(SensorConfig(position_noise=(50.0, 50.0)))
    before = known_path(samples, config)[0].probability
    onset = int(samples[0].phase.argmax())
    assert before[: onset - 100].max() < 0.01
    assert before[-1] > 0.99
