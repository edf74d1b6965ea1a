"""Causal features of tracks, in one implementation for whole tracks, for Triton and for live streams.

A feature at step t depends on the last few measurements (`_SIMPLE_HISTORY` before the step for the simple features,
`motion.HISTORY` for the robust ones), on running maxima, on where the descent began, and on the state of the orbit
filter. So a whole track, its prefix and its stream give the same numbers. `FeatureStream` runs the same arithmetic with
T = 1. docs/features.md describes each feature and its benefit.

Slopes are least-squares fits over the window, not differences of neighbours. With noise of standard deviation s and
even steps d, a difference has noise s * sqrt(2) / d, and a fit to five points has s / (d * sqrt(10)), 4.5 times less. A
window in which all times are equal has slope 0.

Shapes: B tracks, T steps, M measurement columns, F features, S simple features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.arrays import (
    Array,
    arsinh,
    at_steps,
    clipped,
    columns_of,
    cosine,
    latest,
    namespace,
    quotient,
    repeated,
    running_maximum,
    step_numbers,
)
from reentry.features import outliers
from reentry.features.groups import ORBIT, ROBUST, WITHOUT_COMPILER, groups_of, names_with
from reentry.features.history import History, LiveState, LiveTracks, WholeTracks, last
from reentry.features.motion import CLEANING, HISTORY, RADIANS_PER_DEGREE, SHORTEST_TIME, motion
from reentry.features.orbit import orbit_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

WINDOW: Final = 5
"""Number of measurements that a slope is fitted to."""

METRES_PER_DEGREE: Final = 111_194.93
"""Length of one degree on a sphere of the mean Earth radius, 6,371,008.8 m (IUGG R1)."""

LOWEST_PEAK: Final = 1_000.0
"""Minimum altitude to divide by in fractions, m, so that noise on the launch pad is not amplified."""

DIMMEST_PEAK: Final = 0.05
"""Minimum intensity to divide by in fractions. The noise in the public data is 0.01."""

OUTLIER: Final = 200.0
"""Difference from its prediction that is always accepted for an altitude, m, see `outliers`."""

FALLEN_SHARE: Final = 0.02
"""Minimum fall below the highest altitude, as a share of it, for a track to count as descending."""

LEAST_FALL: Final = 1_000.0
"""Minimum fall for a track to count as descending, m, so that noise on the launch pad is not a descent."""

LONGEST_STEP: Final = 60.0
"""Upper limit of the feature `time_step`, s."""

DARKEST: Final = 1e-6
"""Minimum intensity in logarithms."""

RISE_STEPS: Final = 8
"""Number of steps over which the rise of the intensity is computed."""

HANDOVER_FADES: Final = 20.0
"""Time in which the feature `handover` decays by a factor of e, s."""

DEEPEST_DROP: Final = 3e4
"""Upper limit of the feature `drop_from_peak`, m."""

DRAG_SCALE: Final = 0.3
"""Scale of drag features, m/s2: arsinh(d / DRAG_SCALE) is linear for small and logarithmic for large drags d."""

_BLOCK_STEPS: Final = 4096
"""Number of steps that are computed together, so that their arrays stay in the cache and malloc reuses the memory."""

_LATEST, _HIGHEST, _BRIGHTEST = 1e11, 1e8, 1e30
"""Limits of time (s), altitude (m) and intensity that keep the robust features finite."""

_SIMPLE_HISTORY: Final = outliers.HISTORY + 2
"""Number of measurements before a step on which its simple features depend: two earlier altitudes need a prediction."""

_TIME, _LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY, _SENSOR = (
    MEASUREMENT_COLUMNS.index(name)
    for name in ("timestamp", "latitude", "longitude", "altitude", "radiometric_intensity", "sensor_id")
)


def track_features(measurements: Float64, *, groups: frozenset[str] = WITHOUT_COMPILER) -> Float32:
    """Compute the features of whole tracks.

    Args:
        measurements: finite measurements in time order, columns as `schema.MEASUREMENT_COLUMNS`, (T, M) or (B, T, M).
        groups: groups of `schema.COSTLY_GROUPS` to compute. The features of the others are 0.

    Returns:
        Features (T, F) or (B, T, F), columns as `schema.FEATURES`.

    Raises:
        ValueError: the measurements have another shape, or no steps.
        ConfigError: the package that computes the orbit features is not installed.
    """
    if measurements.ndim not in (2, 3) or measurements.shape[-1] != len(MEASUREMENT_COLUMNS):
        raise ValueError(
            f"Expected measurements of shape (T, {len(MEASUREMENT_COLUMNS)}) or "
            f"(B, T, {len(MEASUREMENT_COLUMNS)}). Got: {measurements.shape}"
        )
    if measurements.shape[-2] == 0:
        raise ValueError("Expected at least one measurement. Got: none")
    tracks = np.asarray(measurements, dtype=np.float64)
    batch = tracks if tracks.ndim == 3 else tracks[None]
    features = np.zeros((*batch.shape[:2], len(FEATURES)), dtype=np.float32)
    block = max(1, _BLOCK_STEPS // batch.shape[1])
    names = names_with(groups)
    for start in range(0, len(batch), block):
        table, out = batch[start : start + block], features[start : start + block]
        for name, column in named_features(columns_of(table), names).items():
            out[..., FEATURES.index(name)] = column
    return features.reshape(*tracks.shape[:-1], len(FEATURES))


class FeatureStream:
    """Computes the features of one live track, one measurement at a time."""

    def __init__(self, *, groups: frozenset[str] = WITHOUT_COMPILER) -> None:
        """Begin a track; see `track_features` for the groups."""
        self._names = names_with(groups)
        self._state: LiveState | None = None

    def step(self, measurement: Float64 | Sequence[float]) -> Float32:
        """Add the next measurement of the track, (M,), and return its features, (F,)."""
        newest = np.asarray(measurement, dtype=np.float64)[:, None]
        history = LiveTracks(self._state, None)
        columns = next_features(list(newest), history, self._names)
        self._state = history.after
        features = np.zeros(len(FEATURES), dtype=np.float32)
        for name, column in columns.items():
            features[FEATURES.index(name)] = column[0]
        return features


def next_features(measurement: Sequence[Array], history: LiveTracks, names: Sequence[str]) -> dict[str, Array]:
    """Compute features of the next step of live tracks, with an array library of the caller's choice.

    Args:
        measurement: the next measurement of each track, finite and in time order, a column (B,) float64 for each of
            `schema.MEASUREMENT_COLUMNS`.
        history: values from the previous step, at which this function was called with the same names.
        names: names of `schema.FEATURES`.

    Returns:
        Features by name, (B,) float64 each.
    """
    by_name = _features([column[:, None] for column in measurement], history, names)
    return {name: column[:, 0] for name, column in by_name.items()}


def named_features(columns: Sequence[Array], names: Sequence[str]) -> dict[str, Array]:
    """Compute chosen features of whole tracks, with an array library of the caller's choice.

    The exporter traces this function; everything else calls `track_features`.

    Args:
        columns: finite measurements in time order, a column (B, T) float64 for each of `schema.MEASUREMENT_COLUMNS`.
        names: names of `schema.FEATURES`.

    Returns:
        Features by name, (B, T) float64 each, not yet rounded to float32.
    """
    return _features(columns, WholeTracks(), names)


def _features(columns: Sequence[Array], history: History, names: Sequence[str]) -> dict[str, Array]:
    """Compute chosen features of each step of `columns`, (B, T) each."""
    by_name = _simple_features(_with_history(columns, history.rows(0, _SIMPLE_HISTORY)), history)
    groups = groups_of(names)
    if ROBUST in groups:
        by_name |= _robust_features(_with_history(columns, history.rows(0, HISTORY)), history)
    if ORBIT in groups:
        by_name |= orbit_features(columns, history)
    return {name: by_name[name] for name in names}


def _with_history(columns: Sequence[Array], rows: int) -> list[Array]:
    """Prepend copies of the first measurement: (B, T) -> (B, rows + T) for each column."""
    if rows == 0:
        return list(columns)
    xp = namespace(columns[0])
    return [xp.concat([repeated(column[:, :1], rows), column], axis=1) for column in columns]


def _simple_features(columns: Sequence[Array], history: History) -> dict[str, Array]:
    """Compute the simple features of T steps, (B, T) float64 each.

    Args:
        columns: measurements, (B, n) for each column: the steps, and of whole tracks _SIMPLE_HISTORY rows before them.
        history: earlier values of live tracks.
    """
    xp = namespace(columns[0])
    time, altitude = columns[_TIME], columns[_ALTITUDE]
    seen = {
        column: history.extended(columns[column], lags)
        for column, lags in (
            (_TIME, WINDOW - 1),
            (_LATITUDE, WINDOW - 1),
            (_LONGITUDE, WINDOW - 1),
            (_ALTITUDE, WINDOW - 1),
            (_INTENSITY, 2),
        )
    }
    steps = int(time.shape[-1]) - history.rows(0, _SIMPLE_HISTORY)

    def lagged(column: int, lag: int) -> Array:
        return last(seen[column], steps, lag)

    now = lagged(_TIME, 0)
    ago = [lagged(_TIME, lag) - now for lag in range(WINDOW)]  # s, <= 0
    mean_ago = sum(ago[1:], ago[0]) / WINDOW
    centred = [a - mean_ago for a in ago]
    spread = sum((c * c for c in centred[1:]), centred[0] * centred[0])
    moving = spread > SHORTEST_TIME**2
    weights = [quotient(c, spread, where=moving) for c in centred]

    def slope(column: int, wrap: bool = False) -> Array:
        """Least-squares slope per second. Differences from the newest value keep the sums small."""
        total = xp.zeros_like(spread)
        newest = lagged(column, 0)
        for lag in range(1, WINDOW):
            change = lagged(column, lag) - newest
            if wrap:
                change = change - 360.0 * xp.floor((change + 180.0) / 360.0)
            total = total + weights[lag] * change
        return total

    has_two_before = _has_two_before(ago[1], ago[2])

    def robust_value(newest: Array, previous: Array, oldest: Array) -> Array:
        """Median of three, so that one outlier is never the peak; -inf before the third step."""
        return xp.where(has_two_before, _median(newest, previous, oldest), -math.inf)

    def fraction(value: Array, peak: Array, floor: float) -> Array:
        """Value as a share of the peak: 1 at the peak, before a peak is known, and on a launch pad at sea level."""
        fallen = xp.where(peak > -math.inf, peak - value, 0.0)
        return 1.0 - fallen / xp.maximum(peak, floor)

    filtered = outliers.without_outliers(
        history.extended(clipped(time, -_LATEST, _LATEST), outliers.HISTORY),
        history.extended(clipped(altitude, -_HIGHEST, _HIGHEST), outliers.LINES),
        OUTLIER,
        history,
    )  # whole tracks: (B, 2 + T)
    height = last(filtered, steps)
    # Neither a prediction nor an outlier may become the peak: at the end of a climb, predictions overshoot.
    measured = last(altitude, filtered.shape[-1])
    reliable = history.extended(xp.where(measured <= filtered, measured, -math.inf), 2)
    intensity = [lagged(_INTENSITY, lag) for lag in range(3)]

    # An outlier is never the peak, because each value is a median of three.
    highest = _maximum_so_far(robust_value(*(last(reliable, steps, lag) for lag in range(3))), history)
    brightest = _maximum_so_far(robust_value(*intensity), history)
    descends = highest - height > xp.maximum(FALLEN_SHARE * highest, LEAST_FALL)
    descent_time, descent_height = _first_of_each_run(descends, now, height, history)
    (started,), keep = history.carried([now[:, :1]])
    keep([started])
    elapsed = now - started
    step = -_median(ago[1], ago[2] - ago[1], ago[3] - ago[2])
    north = slope(_LATITUDE) * METRES_PER_DEGREE
    east = slope(_LONGITUDE, wrap=True) * METRES_PER_DEGREE * cosine(lagged(_LATITUDE, 0) * RADIANS_PER_DEGREE)
    return {
        "altitude": lagged(_ALTITUDE, 0),
        "altitude_fraction": fraction(height, highest, LOWEST_PEAK),
        "elapsed_fraction": _elapsed_fraction(elapsed + step, now - descent_time, descent_height - height, height),
        "climb_rate": slope(_ALTITUDE),
        "ground_speed": xp.sqrt(north * north + east * east),
        "intensity": intensity[0],
        "intensity_fraction": fraction(intensity[0], brightest, DIMMEST_PEAK),
        "time_step": clipped(-ago[1], 0.0, LONGEST_STEP),
    }


def _maximum_so_far(x: Array, history: History, start: Array | None = None) -> Array:
    """Maximum of the steps up to each step, (B, T), and of the value `start` at the start of the track, (B, 1)."""
    xp = namespace(x)
    (before,), keep = history.carried([xp.full_like(x[:, :1], -math.inf) if start is None else start])
    highest = xp.maximum(running_maximum(x, -math.inf), before)
    keep([highest[:, -1:]])
    return highest


def _first_of_each_run(inside: Array, time: Array, value: Array, history: History) -> tuple[Array, Array]:
    """Time and value at the start of the run of True that each step belongs to, (B, T); infinite where False.

    Args:
        inside: condition that forms the runs, (B, T).
        time: time, (B, T), s.
        value: value, (B, T).
        history: time and value at the start of the run that the step before belongs to.
    """
    xp = namespace(time)
    before, keep = history.carried([xp.full_like(time[:, :1], math.inf)] * 2)
    was_inside = xp.concat([before[0] < math.inf, inside[:, :-1]], axis=1)
    start = latest(inside & ~was_inside, step_numbers(time), -1)
    known, row = start >= 0, xp.maximum(start, 0)

    def at(x: Array, earlier: Array) -> Array:
        return xp.where(inside, xp.where(known, at_steps(x, row), earlier), math.inf)

    first = at(time, before[0]), at(value, before[1])
    keep([x[:, -1:] for x in first])
    return first


def _elapsed_fraction(elapsed: Array, falling: Array, fallen: Array, height: Array) -> Array:
    """Elapsed share of the flight at the end of each step, from 0 to 1, if the descent continues at its mean rate.

    The remaining time is height / rate. The rate is `fallen / falling`, the mean over the descent so far, so that noise
    averages out. The step itself counts as elapsed: if the last of n rows is at altitude 0, row i has (i + 1) / n.
    Before the rate is known, the share is 0.

    Args:
        elapsed: time from the first measurement to the end of the step, (B, T), s.
        falling: time since the descent was detected, (B, T), s; not finite if the track is not descending.
        fallen: fall since the descent was detected, (B, T), m.
        height: altitude, (B, T), m.
    """
    xp = namespace(fallen)
    known = (xp.abs(fallen) < math.inf) & (falling > 0.0) & (fallen > 0.0)
    per_metre = quotient(falling, fallen, where=known)
    total = elapsed + xp.maximum(height, 0.0) * per_metre
    return quotient(elapsed, total, where=known & (total > 0.0))


def _robust_features(columns: Sequence[Array], history: History) -> dict[str, Array]:
    """Compute the robust features of T steps, (B, T) float64 each.

    Args:
        columns: measurements, (B, n) for each column: the steps, and of whole tracks HISTORY rows before them.
        history: earlier values of live tracks.
    """
    xp = namespace(columns[0])
    time = history.extended(clipped(columns[_TIME], -_LATEST, _LATEST), CLEANING)
    altitude = clipped(columns[_ALTITUDE], -_HIGHEST, _HIGHEST)
    sensor = history.extended(columns[_SENSOR], 1)
    moving = motion(time, columns[_LATITUDE], columns[_LONGITUDE], altitude, sensor, history)

    steps = int(columns[_TIME].shape[-1]) - history.rows(0, HISTORY)
    now = last(time, steps)
    altitude = history.extended(altitude, 2)
    height = _median(*(last(altitude, steps, lag) for lag in range(3)))
    has_two_before = _has_two_before(last(time, steps, 1) - now, last(time, steps, 2) - now)
    counted = xp.where(has_two_before, height, -math.inf)
    highest = _maximum_so_far(counted, history, counted[:, :1])
    # The start of a track counts as a handover.
    changed = xp.where(last(sensor, steps) != last(sensor, steps, 1), now, -math.inf)
    handed_over = _maximum_so_far(changed, history, now[:, :1])

    rows = history.rows(steps, RISE_STEPS + 4)
    light = history.extended(clipped(columns[_INTENSITY], DARKEST, _BRIGHTEST), 2)
    light = history.extended(xp.log(_median(*(last(light, rows, lag) for lag in range(3)))), RISE_STEPS + 4)
    newest = last(light, steps)
    past = (
        sum((last(light, steps, RISE_STEPS + 4 - lag) for lag in range(1, 5)), last(light, steps, RISE_STEPS + 4)) / 5
    )
    by_name = {
        "speed": moving.speed,
        "filtered_climb_rate": moving.climb,
        "log_dynamic_pressure": moving.log_dynamic_pressure,
        "log_intensity": newest,
        "log_intensity_rise": newest - past,
        "handover": xp.exp(-xp.maximum(now - handed_over, 0.0) / HANDOVER_FADES),
        "drop_from_peak": clipped(highest - height, 0.0, DEEPEST_DROP),
    }
    for length, drag in zip(("short", "medium", "long"), moving.drags, strict=True):
        by_name[f"drag_{length}"] = arsinh(drag / DRAG_SCALE)
    return by_name


def _has_two_before(previous: Array, oldest: Array) -> Array:
    """Whether two measurements precede a step, given their times relative to it. The first of a track is repeated.

    With fewer than three measurements the median could be an outlier, which must not become the peak.
    """
    return previous > oldest


def _median(a: Array, b: Array, c: Array) -> Array:
    """Elementwise median of three arrays."""
    xp = namespace(a)
    return xp.maximum(xp.minimum(a, b), xp.minimum(xp.maximum(a, b), c))
