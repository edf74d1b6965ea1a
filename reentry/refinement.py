"""Refined onsets: when reentry really began, estimated from the measurements since the alarm.

A network raises an alarm at the causal onset, from the measurements up to it. Later measurements show more of the drag,
and so of the ballistic coefficient of the body. Each coefficient has its own onset time: the time at which the dynamic
pressure exceeded its onset pressure, or the time at which it is predicted to. The posterior of the coefficients weights
these times. The refined onset is their weighted median, which a few unlikely coefficients do not move.

An onset pressure was exceeded between two measurements with a result of the orbit filter. The onset time is that of the
later one, and the time between them, which a gap makes long, adds to the deviation.

The computation is the same for whole tracks and for live ones, bit for bit.

Shapes: B tracks, T steps, F features, R speeds, G coefficients.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from reentry.drift import Reference
from reentry.features.orbit_posterior import ONSET_PRESSURES, posterior
from reentry.references import ByVersion
from reentry.schema import FEATURES, NOT_REFINED

LONGEST_HINDSIGHT: Final = 20.0
"""Time after the alarm during which an onset is refined, s."""

_KNOWN: Final = FEATURES.index("orbit_known")
_DRAG_FACTOR: Final = FEATURES.index("orbit_drag_factor")
_DRAG_DEVIATION: Final = FEATURES.index("orbit_drag_deviation")
_PEAK: Final = FEATURES.index("orbit_peak_pressure")
_RISE: Final = FEATURES.index("orbit_pressure_rise")
_ENTRY_SPEED: Final = FEATURES.index("orbit_entry_speed")

_COEFFICIENTS: Final = len(ONSET_PRESSURES)
_NEAREST: Final = 0.1
"""Smallest rise in the logarithm of the pressure until a predicted onset, so that it lies after the latest measurement.
"""
_FARTHEST: Final = 8.0
"""Largest rise in the logarithm of the pressure until a predicted onset. It is the range of `ONSET_PRESSURES`, rounded
up, so that only pressures below the whole range are limited."""
_SLOWEST_RISE: Final = 1e-3
"""Smallest rise of the logarithm of the pressure, 1/s, so that the time to a predicted onset is finite. It is far below
the rise during a descent, because a limit on the time, which suits the input of a network, would move the median."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class RefinedOnset(NamedTuple):
    """The refined onset of one track."""

    timestamp: float
    """Unix time at which reentry probably began, s."""
    deviation: float
    """Standard deviation of that time, s."""
    hindsight: float
    """Time from the alarm to the last measurement that was used, s."""


def refined_onset(features: Float32, timestamp: Float64, alarm: int, prior: Float64) -> RefinedOnset | None:
    """Refine the onset of a whole track from the measurements up to `LONGEST_HINDSIGHT` after the alarm.

    Args:
        features: features of the track without padding, (T, F).
        timestamp: Unix time of each step, (T,), s.
        alarm: step of the causal onset.
        prior: probability of each coefficient at each speed, (R, G).

    Returns:
        The refined onset; None if the orbit filter has no result at the last of these measurements, or if the onset
        came before its first result.
    """
    last = alarm + int(np.count_nonzero(timestamp[alarm:] - timestamp[alarm] <= LONGEST_HINDSIGHT)) - 1
    if not features[last, _KNOWN] > 0.0:  # NaN if the features were not computed
        return None
    known = np.flatnonzero(features[: last + 1, _KNOWN] > 0.0)
    times = timestamp[known]
    peak = np.maximum.accumulate(_known_pressure(features[known]))
    before = np.concatenate([timestamp[:1], times[:-1]])
    crossed = np.minimum(np.searchsorted(peak, ONSET_PRESSURES, side="right"), len(known) - 1)
    crossing = np.stack([times, before])[:, None, crossed]
    refined, deviation = _estimate(
        features[last : last + 1], times[-1:], before[-1:], times[:1], peak[-1:], crossing, prior
    )
    if deviation[0] == NOT_REFINED:
        return None
    return RefinedOnset(float(refined[0]), float(deviation[0]), float(timestamp[last] - timestamp[alarm]))


class LiveRefinement:
    """Refined onsets of live tracks, with what they need of earlier measurements."""

    def __init__(self, prior: Float64) -> None:
        """Begin without tracks.

        Args:
            prior: probability of each coefficient at each speed, (R, G).
        """
        self._prior = prior
        self._first_known = np.zeros(0)  # time of the first result of the filter
        self._last_known = np.zeros(0)  # time of the last one; before it, that of the first measurement, or NaN
        self._peak = np.zeros(0)  # logarithm of the highest pressure
        self._crossing = np.zeros((2, 0, _COEFFICIENTS))  # see `_estimate`

    def __len__(self) -> int:
        """Number of tracks."""
        return len(self._peak)

    def widen(self, more: int) -> None:
        """Add tracks that have not started."""
        self._first_known = np.concatenate([self._first_known, np.full(more, np.inf)])
        self._last_known = np.concatenate([self._last_known, np.full(more, np.nan)])
        self._peak = np.concatenate([self._peak, np.full(more, -np.inf)])
        self._crossing = np.concatenate([self._crossing, np.zeros((2, more, _COEFFICIENTS))], axis=1)

    def keep(self, places: Int64) -> None:
        """Keep only some tracks."""
        self._first_known, self._last_known = self._first_known[places], self._last_known[places]
        self._peak, self._crossing = self._peak[places], self._crossing[:, places]

    def advance(self, places: Int64, features: Float32, timestamp: Float64, alarm: Float64) -> tuple[Float64, Float64]:
        """Add one measurement to different tracks, and refine their onsets.

        Args:
            places: places of the tracks, (B,).
            features: features of the measurements, (B, F).
            timestamp: Unix time of the measurements, (B,), s.
            alarm: Unix time of the causal onset, (B,), s; `schema.NO_ONSET_TIMESTAMP` before it.

        Returns:
            Refined onset and its standard deviation, (B,) each, s; `schema.NOT_REFINED` for a track without an alarm,
            with an alarm more than `LONGEST_HINDSIGHT` ago, without a result of the orbit filter, or with an onset
            before its first result.
        """
        before = self._add(places, features, timestamp)
        onset, deviation = np.full(len(places), NOT_REFINED), np.full(len(places), NOT_REFINED)
        recent = (alarm >= 0.0) & (timestamp - alarm <= LONGEST_HINDSIGHT)
        rows = np.flatnonzero(recent & (features[:, _KNOWN] > 0.0))
        if len(rows):
            at = places[rows]
            onset[rows], deviation[rows] = _estimate(
                *(features[rows], timestamp[rows], before[rows]),
                *(self._first_known[at], self._peak[at], self._crossing[:, at], self._prior),
            )
        return onset, deviation

    def _add(self, places: Int64, features: Float32, timestamp: Float64) -> Float64:
        """Note a measurement of each track, and return the time of the last known one before it, (B,)."""
        known = features[:, _KNOWN] > 0.0
        before = self._last_known[places]
        before = np.where(np.isnan(before), timestamp, before)
        self._last_known[places] = np.where(known, timestamp, before)
        self._first_known[places] = np.minimum(self._first_known[places], np.where(known, timestamp, np.inf))
        pressure = _known_pressure(features)
        rising = np.flatnonzero(pressure > self._peak[places])
        if not len(rising):
            return before
        risen, peak = places[rising], pressure[rising]
        crossed, crosses = np.searchsorted(ONSET_PRESSURES, self._peak[risen]), np.searchsorted(ONSET_PRESSURES, peak)
        self._peak[risen] = peak
        count = crosses - crossed
        coefficient = np.arange(count.sum()) - np.repeat(np.cumsum(count) - crosses, count)
        times = np.stack([timestamp[rising], before[rising]])
        self._crossing[:, np.repeat(risen, count), coefficient] = np.repeat(times, count, axis=1)
        return before


class OrbitPriors(ByVersion[Float64]):
    """Priors of the versions in a model repository, (R, G) each."""

    def __init__(self, network: Path) -> None:
        """Read versions from the folder of reentry_lstm."""
        super().__init__(network, _prior_of)


def _prior_of(reference: Reference) -> Float64 | None:
    return None if reference.orbit_prior is None else np.array(reference.orbit_prior)


def _known_pressure(features: Float32) -> Float64:
    """Return the logarithm of the highest pressure so far, (...); minus infinity without a result of the filter."""
    pressure: Float64 = math.log(10.0) * features[..., _PEAK].astype(np.float64)
    return np.where(features[..., _KNOWN] > 0.0, pressure, -np.inf)


def _estimate(
    features: Float32,
    timestamp: Float64,
    before: Float64,
    first_known: Float64,
    peak: Float64,
    crossing: Float64,
    prior: Float64,
) -> tuple[Float64, Float64]:
    """Estimate the onset of tracks for which the filter has a result.

    Args:
        features: features of the latest step, (B, F).
        timestamp: Unix time of the latest step, (B,), s.
        before: Unix time of the last known step before it, (B,), s. A step is known if the filter has a result for it;
            the first step of the track stands for the one before the first known step.
        first_known: Unix time of the first known step, (B,), s.
        peak: logarithm of the highest pressure so far, (B,); the times in `crossing` count for lower onset pressures.
        crossing: Unix times of the first known step above the onset pressure of each coefficient, and of the last known
            step before it, (2, B, G), s.
        prior: probability of each coefficient at each speed, (R, G).

    Returns:
        Refined onset and its standard deviation, (B,) each, s; `schema.NOT_REFINED` for a track whose onset came before
        the first known step.
    """
    x = features.astype(np.float64)[:, :, None]  # a row for each track, whose result does not depend on the others
    weight = posterior(x[:, _DRAG_FACTOR], x[:, _DRAG_DEVIATION], x[:, _ENTRY_SPEED], prior)[:, 0]
    wait = np.clip(ONSET_PRESSURES - peak[:, None], _NEAREST, _FARTHEST) / np.maximum(x[:, _RISE], _SLOWEST_RISE)
    passed = peak[:, None] > ONSET_PRESSURES
    onset = np.where(passed, crossing[0], timestamp[:, None] + wait)
    # The onset times do not fall along the coefficients, so they are in order for the median.
    median = np.argmax(np.cumsum(weight, axis=-1) >= 0.5, axis=-1)[:, None]
    later = onset - timestamp[:, None]  # without the many digits of a Unix time
    spread = later - np.sum(weight * later, axis=-1, keepdims=True)
    # The pressure was exceeded at an unknown time since the known step before. A predicted onset will lie between two
    # steps as well, probably as far apart as the latest ones.
    doubt = 0.5 * np.where(passed, crossing[0] - crossing[1], (timestamp - before)[:, None])
    deviation = np.sqrt(np.sum(weight * (spread**2 + doubt**2), axis=-1))
    refined = np.take_along_axis(onset, median, axis=-1)[:, 0]
    is_bounded = refined > first_known
    return np.where(is_bounded, refined, NOT_REFINED), np.where(is_bounded, deviation, NOT_REFINED)
