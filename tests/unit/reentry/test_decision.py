"""The rule from probabilities to phase and onset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reentry.decision import NO_ONSET, DecisionConfig, onset_of, phase_of
from reentry.errors import ConfigError

CONFIG = DecisionConfig(enter=0.6, leave=0.3)
probabilities = st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=60).map(np.array)


def stepwise(probability: np.ndarray, config: DecisionConfig) -> list[int]:
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
def test_the_whole_is_the_rule_step_by_step(probability: np.ndarray) -> None:
    assert phase_of(probability, CONFIG).tolist() == stepwise(probability, CONFIG)


@given(probabilities, st.integers(1, 60))
def test_a_stream_that_carries_its_phase_goes_on_as_the_whole(probability: np.ndarray, cut: int) -> None:
    head = phase_of(probability[:cut], CONFIG)
    tail = phase_of(probability[cut:], CONFIG, before=bool(head[-1]))
    assert [*head, *tail] == phase_of(probability, CONFIG).tolist()


def test_nan_is_no_evidence() -> None:
    assert phase_of(np.array([np.nan, 0.9, np.nan, 0.1, np.nan]), CONFIG).tolist() == [0, 1, 1, 0, 0]


def test_a_batch_is_decided_track_by_track() -> None:
    batch = np.random.default_rng(0).uniform(size=(5, 40))
    phases = phase_of(batch, CONFIG)
    assert phases.tolist() == [stepwise(track, CONFIG) for track in batch]


def test_the_onset_is_the_first_step_of_reentry_and_none_without_one() -> None:
    phases = np.array([[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    assert onset_of(phases).tolist() == [2, 0, NO_ONSET]
    assert onset_of(phases[0]) == 2
    assert onset_of(np.zeros((2, 0), dtype=int)).tolist() == [NO_ONSET, NO_ONSET]


@pytest.mark.parametrize(("enter", "leave"), [(0.2, 0.5), (0.5, 0.0), (1.0, 0.5)])
def test_thresholds_out_of_order_are_refused(enter: float, leave: float) -> None:
    with pytest.raises(ConfigError, match="0 < leave <= enter < 1"):
        DecisionConfig(enter=enter, leave=leave)
