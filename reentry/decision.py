"""Decision rule with hysteresis from probabilities to phase and onset, shared by evaluation, Triton and streams.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.schema import NO_ONSET_TIMESTAMP

NO_ONSET: Final = -1
"""Onset step of a track that never enters reentry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConfig:
    """Thresholds: reentry begins at a probability of at least `enter` and ends below `leave`."""

    enter: float = 0.5
    leave: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.leave <= self.enter < 1.0:
            raise ConfigError(
                "the decision thresholds are invalid",
                expected="0 < leave <= enter < 1",
                got=f"leave {self.leave}, enter {self.enter}",
            )


def phase_of(
    probability: npt.NDArray[np.floating[Any]], config: DecisionConfig | None = None, *, before: bool = False
) -> npt.NDArray[np.uint8]:
    """Phase of each step: 1 during reentry, else 0.

    Args:
        probability: (T,) or (B, T). The phase does not change at NaN.
        config: the thresholds.
        before: whether the step before the first one was in reentry, so that a stream can continue its track.

    Returns:
        Phase of the same shape as the probability.
    """
    config = config or DecisionConfig()
    steps = np.arange(1, probability.shape[-1] + 1)
    entered = np.maximum.accumulate(np.where(probability >= config.enter, steps, 0), axis=-1)
    left = np.maximum.accumulate(np.where(probability < config.leave, steps, 0), axis=-1)
    phase: npt.NDArray[np.uint8] = ((entered > left) | ((entered == left) & before)).astype(np.uint8)
    return phase


def onset_of(phase: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """First step of reentry, or `NO_ONSET`: (T,) -> (), (B, T) -> (B,)."""
    if phase.shape[-1] == 0:
        return np.full(phase.shape[:-1], NO_ONSET, dtype=np.int32)
    inside = phase != 0
    return np.where(inside.any(axis=-1), inside.argmax(axis=-1), NO_ONSET).astype(np.int32)


def decide_tracks(
    probability: npt.NDArray[np.floating[Any]],
    timestamp: npt.NDArray[np.float64],
    track_length: npt.NDArray[np.integer[Any]],
    config: DecisionConfig | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Decide phase and onset of tracks that are padded on the right.

    Args:
        probability: probability of reentry, (B, T).
        timestamp: Unix time, (B, T), s.
        track_length: number of steps of each track, (B,), from 1 to T. An onset in the padding does not count.
        config: the thresholds.

    Returns:
        Phase (B, T), onset step (B,), and onset timestamp (B,), s. A track without an onset has `NO_ONSET` and
        `NO_ONSET_TIMESTAMP`.
    """
    phase = phase_of(probability, config)
    inside = np.arange(phase.shape[1]) < track_length[:, None]
    onset_step = onset_of(phase * inside)
    onset_timestamp = timestamp[np.arange(len(timestamp)), np.maximum(onset_step, 0)]
    return phase, onset_step, np.where(onset_step == NO_ONSET, NO_ONSET_TIMESTAMP, onset_timestamp)
