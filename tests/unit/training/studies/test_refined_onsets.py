"""Errors of refined onsets by the time since the alarm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reentry.decision import DecisionConfig
from reentry.features.groups import ORBIT
from reentry.refinement import refined_onset
from reentry.schema import FEATURES
from reentry.simulation import simulate_file
from training.data.samples import Sample, read_labelled
from training.evaluation.metrics import Prediction, onset_errors
from training.studies.orbit_baselines import FLAT
from training.studies.refined_onsets import HINDSIGHTS, refined_errors

LATE = 4
"""Steps from the onset to the alarm."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    path: Path = tmp_path_factory.mktemp("flights") / "shots.parquet"
    simulate_file(path, profile="ballistic", tracks=4, seed=3, severity=1, processes=1)
    return read_labelled(path, groups=frozenset({ORBIT}))


def late(sample: Sample) -> Prediction:
    """Alarm some steps after the onset."""
    probability = np.zeros(len(sample.track))
    probability[int(sample.phase.argmax()) + LATE :] = 1.0
    return Prediction(track=sample.track, probability=probability)


def test_refined_onsets_become_better_with_hindsight(samples: list[Sample]) -> None:
    predictions = [late(sample) for sample in samples]
    results = refined_errors(predictions, samples, FLAT, DecisionConfig())
    assert tuple(errors.hindsight for errors in results) == HINDSIGHTS
    assert all(errors.refined == len(samples) for errors in results)
    causal = np.sqrt(np.mean(onset_errors(predictions, DecisionConfig()) ** 2))
    assert results[-1].onset_rmse < 0.5 * causal


def test_the_last_refinement_is_that_of_the_whole_track(samples: list[Sample]) -> None:
    sample = samples[0]
    onset = int(sample.phase.argmax())
    refined = refined_onset(sample.features.numpy(), sample.track.timestamp, onset + LATE, FLAT)
    assert refined is not None
    error = refined.timestamp - sample.track.timestamp[onset]
    (result,) = refined_errors([late(sample)], [sample], FLAT, DecisionConfig(), [20.0])
    assert result.onset_rmse == pytest.approx(abs(error))
    assert result.spread == 0.0  # of a single flight


def test_without_an_alarm_or_a_refinement_the_causal_onset_counts(samples: list[Sample]) -> None:
    silent = Prediction(track=samples[0].track, probability=np.zeros(len(samples[0].track)))
    features = samples[1].features.clone()
    features[:, FEATURES.index("orbit_known")] = 0.0
    unknown = replace(samples[1], features=features)
    predictions = [silent, late(unknown)]
    (result,) = refined_errors(predictions, [samples[0], unknown], FLAT, DecisionConfig(), [5.0])
    causal = onset_errors(predictions, DecisionConfig())
    assert result.onset_rmse == pytest.approx(np.sqrt(np.mean(causal**2)))
    assert result.refined == 0
    assert np.isnan(result.spread)
