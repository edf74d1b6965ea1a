"""Tests of the decision rule from probabilities to phase and onset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reentry.decision import NO_ONSET, DecisionConfig, decide_tracks, onset_of, phase_of
from reentry.errors import ConfigError
from reentry.schema import NO_ONSET_TIMESTAMP

CONFIG = DecisionConfig(enter=0.6, leave=0.3)
probabilities = st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=60).map(np.array)


def phases_step_by_step(probability: np.ndarray, config: DecisionConfig) -> list[int]:
    inside, phases = False, []
    for p in probability:
        if p >= config.enter:
            inside = True
        elif p < config.leave:
            inside = False
        phases.append(int(inside))
    return phases


def test_reentry_begins_at_enter_and_ends_below_leave() -> None:
    probability = np.array([0.1, 0.5, 0.6, 0.4, 0.3, 0.29, 0.5, 0.9])
    assert phase_of(probability, CONFIG).tolist() == [0, 0, 1, 1, 1, 0, 0, 1]


@given(probabilities)
def test_the_phase_of_a_whole_track_follows_the_rule_step_by_step(probability: np.ndarray) -> None:
    assert phase_of(probability, CONFIG).tolist() == phases_step_by_step(probability, CONFIG)


@given(probabilities, st.integers(1, 60))
def test_a_stream_that_keeps_its_phase_gets_the_phases_of_the_whole_track(probability: np.ndarray, cut: int) -> None:
    head = phase_of(probability[:cut], CONFIG)
    tail = phase_of(probability[cut:], CONFIG, before=bool(head[-1]))
    assert [*head, *tail] == phase_of(probability, CONFIG).tolist()


def test_nan_does_not_change_the_phase() -> None:
    assert phase_of(np.array([np.nan, 0.9, np.nan, 0.1, np.nan]), CONFIG).tolist() == [0, 1, 1, 0, 0]


def test_each_track_of_a_batch_is_decided_on_its_own() -> None:
    batch = np.random.default_rng(0).uniform(size=(5, 40))
    phases = phase_of(batch, CONFIG)
    assert phases.tolist() == [phases_step_by_step(track, CONFIG) for track in batch]


def test_the_onset_is_the_first_step_of_reentry_if_there_is_one() -> None:
    phases = np.array([[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert onset_of(phases).tolist() == [2, 0, NO_ONSET]
    assert onset_of(phases[0]) == 2
    assert onset_of(np.zeros((2, 0), dtype=int)).tolist() == [NO_ONSET, NO_ONSET]


@pytest.mark.parametrize(("enter", "leave"), [(0.2, 0.5), (0.5, 0.0), (1.0, 0.5)])
def test_invalid_thresholds_are_rejected(enter: float, leave: float) -> None:
    with pytest.raises(ConfigError) as error:
        DecisionConfig(enter=enter, leave=leave)
    assert error.value.expected == "0 < leave <= enter < 1"
    assert error.value.got == f"leave {leave}, enter {enter}"


def test_an_onset_in_the_padding_is_ignored() -> None:
    probability = np.array([[0.1, 0.9, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]])
    timestamp = np.arange(12.0).reshape(3, 4)
    phase, onset, at = decide_tracks(probability, timestamp, np.array([2, 2, 4]), DecisionConfig())
    np.testing.assert_array_equal(phase, [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    assert onset.tolist() == [1, NO_ONSET, NO_ONSET]
    assert onset.dtype == np.int32
    np.testing.assert_array_equal(at, [1.0, NO_ONSET_TIMESTAMP, NO_ONSET_TIMESTAMP])
