"""The step of a live track, from its newest measurement to its phase, for any number of tracks at once.

The graph of a live track contains this step, traced by the exporter, and the model for scans runs it on numpy arrays.
Both differ in the network alone, which they pass to the step.

Shapes: B tracks, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from reentry.arrays import Array, converted, namespace
from reentry.decision import next_phase
from reentry.features.history import LiveState, LiveTracks
from reentry.features.track import next_features
from reentry.schema import MEASUREMENT_COLUMNS, NO_ONSET_TIMESTAMP, TIMESTAMP
from reentry.triton.checks import valid_steps

RECENT: Final = 5
"""Number of the latest measurements of a track that a repeated measurement is compared with."""

LARGEST_FEATURE: Final = 3.4028234663852886e38
"""Largest finite number of float32."""

_TIME: Final = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)


class Answer(NamedTuple):
    """What is known of tracks after their latest measurements, (B, 1) float64 each."""

    probability: Array
    phase: Array
    """1 during reentry, else 0."""
    onset_timestamp: Array
    """Unix time of the onset, s; `schema.NO_ONSET_TIMESTAMP` before it."""


class Step(NamedTuple):
    """Result of a step, (B,) bool each."""

    finite: Array
    """Whether the features fit in float32. Otherwise the state after the step is meaningless."""
    begins: Array
    """Whether the first reentry of the track begins."""


def is_valid(measurement: Array) -> Array:
    """Whether measurements (M, B) have no fault by the rules of `reentry.triton.checks`: (B,) bool."""
    xp = namespace(measurement)
    return valid_steps(measurement[:, :, None], xp.ones((1, 1), dtype=xp.int32))[:, 0]


def is_fresh(measurement: Array, state: LiveState) -> Array:
    """Whether measurements (M, B) of known tracks are neither late nor repeated: (B,) bool.

    A late one is older than the latest measurement, and a repeated one equals one of the latest `RECENT` ones.
    """
    xp = namespace(measurement)
    recent = state.recent[0]  # (M, B, RECENT)
    late = measurement[_TIME] < recent[_TIME, :, -1]
    return ~(late | xp.any(xp.all(recent == measurement[:, :, None], axis=0), axis=-1))


def answer_of(state: LiveState) -> Answer:
    """Return what is known of tracks."""
    return Answer(*state.kept[: len(Answer._fields)])


def step(
    measurement: Array,
    history: LiveTracks,
    names: Sequence[str],
    network: Callable[[dict[str, Array]], Array],
) -> Step:
    """Advance tracks by one measurement. The state after the step is `history.after`.

    Args:
        measurement: valid and fresh measurements, (M, B) float64.
        history: state after the earlier measurements.
        names: names of the features of the network.
        network: function from features by name, (B,) float32 each, to the probability of reentry, (B, 1) float32. It
            keeps its own state in the history.
    """
    xp = namespace(measurement)
    zero = xp.zeros_like(measurement[_TIME])[:, None]
    kept, keep = history.carried(Answer(zero, zero, zero + NO_ONSET_TIMESTAMP))
    before = Answer(*kept)
    history.extended(measurement[:, :, None], RECENT)
    features = next_features(list(measurement), history, names)
    finite = xp.ones_like(measurement[_TIME], dtype=xp.bool)
    for feature in features.values():
        finite = finite & (xp.abs(feature) <= LARGEST_FEATURE)
    # The inputs must be finite, because an LSTM returns plausible numbers for NaN.
    probability = network({name: converted(xp.where(finite, x, 0.0), "float32") for name, x in features.items()})
    phase = next_phase(probability, before.phase)
    begins = (phase > 0.0) & (before.onset_timestamp == NO_ONSET_TIMESTAMP)
    onset_timestamp = xp.where(begins, measurement[_TIME][:, None], before.onset_timestamp)
    keep(Answer(converted(probability, "float64"), phase, onset_timestamp))
    return Step(finite, begins[:, 0])
