"""Probabilities -> phase and onset, with hysteresis: one rule for training's figures, Triton and streams.

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
"""The onset step of a track that never enters reentry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConfig:
    """Reentry begins at a probability of at least `enter` and ends below `leave`; between, nothing changes."""

    enter: float = 0.5
    leave: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.leave <= self.enter < 1.0:
            raise ConfigError(
                "decision thresholds out of order",
                expected="0 < leave <= enter < 1",
                got=f"leave {self.leave}, enter {self.enter}",
            )


def phase_of(
    probability: npt.NDArray[np.floating[Any]], config: DecisionConfig | None = None, *, before: bool = False
) -> npt.NDArray[np.uint8]:
    """Phase of each step: 1 in reentry.

    Args:
        probability: (T,) or (B, T). NaN counts as no evidence: the phase stays as it was.
        config: the thresholds.
        before: the phase before the first step; a stream passes its own last one.

    Returns:
        The same shape, 0 or 1.
    """
    config = config or DecisionConfig()
    steps = np.arange(1, probability.shape[-1] + 1)
    entered = np.maximum.accumulate(np.where(probability >= config.enter, steps, 0), axis=-1)
    left = np.maximum.accumulate(np.where(probability < config.leave, steps, 0), axis=-1)
    phase: npt.NDArray[np.uint8] = ((entered > left) | ((entered == left) & before)).astype(np.uint8)
    return phase


def onset_of(phase: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """First step of reentry, `NO_ONSET` where there is none: (T,) -> (), (B, T) -> (B,)."""
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
    """Phase and onset of tracks that are padded on the right.

    Args:
        probability: (B, T).
        timestamp: (B, T), s.
        track_length: (B,), from 1 to T; an onset beyond it is in the padding and is none.
        config: the thresholds.

    Returns:
        Phase (B, T), onset step (B,), and onset timestamp (B,), s. A track without an onset has `NO_ONSET` and
        `NO_ONSET_TIMESTAMP`.
    """
    phase = phase_of(probability, config)
    inside = np.arange(phase.shape[1]) < track_length[:, None]
    onset_step = onset_of(phase * inside)
    at = timestamp[np.arange(len(timestamp)), np.maximum(onset_step, 0)]
    return phase, onset_step, np.where(onset_step == NO_ONSET, NO_ONSET_TIMESTAMP, at)
