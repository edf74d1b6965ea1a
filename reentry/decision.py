"""Decision rule with hysteresis from probabilities to phase and onset, shared by evaluation, Triton and streams.

The functions take arrays of numpy and of other libraries, see `reentry.arrays`.

Shapes: B tracks, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from reentry.arrays import Array, at_steps, converted, latest, namespace, step_numbers
from reentry.errors import ConfigError
from reentry.schema import NO_ONSET_TIMESTAMP

NO_ONSET: Final = -1
"""Onset step of a track that never enters reentry."""

AGREEMENT_SECONDS: Final = 1.0
"""Largest difference of two onsets that agree, s."""


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


def phase_of(probability: Array, config: DecisionConfig | None = None, *, before: bool = False) -> Array:
    """Phase of each step: 1 during reentry, else 0.

    Args:
        probability: (T,) or (B, T). The phase does not change at NaN.
        config: the thresholds.
        before: whether the step before the first one was in reentry, so that a stream can continue its track.

    Returns:
        Phase of the same shape as the probability, uint8.
    """
    config = config or DecisionConfig()
    # An even number leaves reentry and an odd number enters it, and later steps have larger numbers.
    enters, leaves = probability >= config.enter, probability < config.leave
    number = converted(2 * (step_numbers(probability) + 1), "int32") + converted(enters, "int32")
    return converted(latest(enters | leaves, number, int(before)) % 2, "uint8")


def next_phase(probability: Array, before: Array, config: DecisionConfig | None = None) -> Array:
    """Phase after one more step, 1.0 during reentry, else 0.0, from the phase before it; any common shape."""
    config = config or DecisionConfig()
    xp = namespace(probability)
    return xp.where(probability >= config.enter, 1.0, xp.where(probability < config.leave, 0.0, before))


def onset_of(phase: Array) -> Array:
    """First step of reentry, or `NO_ONSET`: (T,) -> (), (B, T) -> (B,) int32."""
    xp = namespace(phase)
    if phase.shape[-1] == 0:
        return xp.full(phase.shape[:-1], NO_ONSET, dtype=xp.int32)
    inside = converted(phase != 0, "int32")
    first = xp.where(xp.max(inside, axis=-1) > 0, xp.argmax(inside, axis=-1), NO_ONSET)
    return converted(first, "int32")


def decide_tracks(
    probability: Array, timestamp: Array, track_length: Array, config: DecisionConfig | None = None
) -> tuple[Array, Array, Array]:
    """Decide phase and onset of tracks that are padded on the right.

    Args:
        probability: probability of reentry, (B, T).
        timestamp: Unix time, (B, T), s.
        track_length: number of steps of each track, (B,), from 1 to T. An onset in the padding does not count.
        config: the thresholds.

    Returns:
        Phase (B, T) uint8, onset step (B,) int32, and onset timestamp (B,) float64, s. A track without an onset has
        `NO_ONSET` and `NO_ONSET_TIMESTAMP`.
    """
    xp = namespace(probability)
    phase = phase_of(probability, config)
    inside = step_numbers(probability) < track_length[:, None]
    onset_step = onset_of(xp.where(inside, phase, xp.zeros_like(phase)))
    row = converted(xp.maximum(onset_step, 0), "int64")[:, None]
    onset_timestamp = at_steps(timestamp, row)[:, 0]
    return phase, onset_step, xp.where(onset_step == NO_ONSET, NO_ONSET_TIMESTAMP, onset_timestamp)
