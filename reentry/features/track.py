"""Track -> features, causal: one implementation for whole tracks, for Triton, and for one measurement at a time.

A feature at step t is a function of three things: the last few measurements (`_SIMPLE_HISTORY` before the step for the
simple features, `motion.HISTORY` for the robust ones), running maxima, and where the descent began. So a whole track,
its prefix and its stream give the same numbers. `FeatureStream` runs the very same arithmetic with T = 1.
docs/features.md has each feature and what it buys.

Slopes are least-squares lines over the window rather than differences of neighbours: with noise of standard deviation
s and even steps d, a difference has s * sqrt(2) / d, five points have s / (d * sqrt(10)), 4.5 times less. A window in
which time stands still (repeated instants) has slope 0.

Shapes: B tracks, T steps, M measurement columns, F features, S of them simple, W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.features import outliers
from reentry.features.motion import HISTORY, motion
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, ROBUST_FEATURES, SIMPLE_FEATURES

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

WINDOW: Final = 5
"""Measurements a slope is fitted over."""

METRES_PER_DEGREE: Final = 111_194.93
"""Arc of one degree on a sphere of the mean Earth radius, 6,371,008.8 m (IUGG R1)."""

LOWEST_PEAK: Final = 1_000.0
"""m. Fractions are of at least this altitude, so that the noise on the launch pad is not amplified."""

DIMMEST_PEAK: Final = 0.05
"""The same floor for intensity, whose noise in the public data is 0.01."""

OUTLIER: Final = 200.0
"""m by which an altitude may always differ from what those before it predict, see `outliers`."""

FALLEN_SHARE: Final = 0.02
"""A track descends once it is below its highest altitude by this share of it, and by `LEAST_FALL`."""

LEAST_FALL: Final = 1_000.0
"""m, so that noise on the launch pad is no descent."""

SHORTEST_WINDOW: Final = 1e-6
"""s. In a window of less, time stands still: a Unix time in float64 has no finer steps."""

LONGEST_STEP: Final = 60.0
"""s. A longer silence counts as this long."""

DARKEST: Final = 1e-6
"""Intensities below count as this one in the logarithm."""

RISE_STEPS: Final = 8
"""Steps over which the rise of the intensity is taken."""

HANDOVER_FADES: Final = 20.0
"""s after which the feature of a handover has fallen by e."""

DEEPEST_DROP: Final = 3e4
"""m. All reentries begin above; a drop from the peak of more says nothing new."""

DRAG_SCALE: Final = 0.3
"""m/s2. A drag d is told as arsinh(d / DRAG_SCALE): in proportion below, in logarithm above, of either sign."""

_BLOCK_STEPS: Final = 4096
"""Steps of a batch that are computed together: their arrays stay in the cache, and malloc keeps their memory."""

_LATEST, _HIGHEST, _BRIGHTEST = 1e11, 1e8, 1e30
"""What a measurement is cut to before the robust features, that all of them are finite; s, m, and an intensity."""

_SIMPLE: Final = len(SIMPLE_FEATURES)

_SIMPLE_HISTORY: Final = outliers.HISTORY + 2
"""Measurements before a step on which its simple features depend: two earlier altitudes without outliers."""

_TIME, _LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY, _SENSOR = (
    MEASUREMENT_COLUMNS.index(name)
    for name in ("timestamp", "latitude", "longitude", "altitude", "radiometric_intensity", "sensor_id")
)


def track_features(measurements: Float64, *, robust: bool = True) -> Float32:
    """Features of whole tracks.

    Args:
        measurements: (T, M) or (B, T, M), columns as `schema.MEASUREMENT_COLUMNS`, by time, finite.
        robust: whether `schema.ROBUST_FEATURES` are wanted; they are 0 otherwise.

    Returns:
        (T, F) or (B, T, F), columns as `schema.FEATURES`.

    Raises:
        ValueError: another number of axes or columns, or no step.
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
    for start in range(0, len(batch), block):
        part, own = batch[start : start + block], features[start : start + block]
        own[..., :_SIMPLE], _ = _simple_features(_with_history(part, _SIMPLE_HISTORY), None)
        if robust:
            own[..., _SIMPLE:], _ = _robust_features(_with_history(part, HISTORY), None)
    return features.reshape(*tracks.shape[:-1], len(FEATURES))


class FeatureStream:
    """The same features for one live track, one measurement at a time."""

    def __init__(self) -> None:
        self._window: Float64 | None = None  # (1, HISTORY + 1, M), oldest first
        self._so_far: Float64 | None = None
        self._running: Float64 | None = None

    def step(self, measurement: Float64 | Sequence[float]) -> Float32:
        """Take the track's next measurement, (M,), and return its features, (F,)."""
        newest = np.asarray(measurement, dtype=np.float64)[None, None]
        if self._window is None:
            self._window = _with_history(newest, HISTORY)
        else:
            self._window = np.concatenate([self._window[:, 1:], newest], axis=1)
        simple, self._so_far = _simple_features(self._window[:, -_SIMPLE_HISTORY - 1 :], self._so_far)
        robust, self._running = _robust_features(self._window, self._running)
        return np.concatenate([simple, robust], axis=-1).reshape(len(FEATURES))


def _with_history(tracks: Float64, rows: int) -> Float64:
    """Repeat the first measurement so often in front: (B, T, M) -> (B, rows + T, M)."""
    return np.concatenate([np.repeat(tracks[:, :1], rows, axis=1), tracks], axis=1)


def _simple_features(history: Float64, so_far: Float64 | None) -> tuple[Float32, Float64]:
    """Simple features of the steps from _SIMPLE_HISTORY on, and what is carried on after the last.

    Args:
        history: (B, _SIMPLE_HISTORY + T, M).
        so_far: (5, B), before these steps: the highest altitude and intensity, the time of the first measurement, and
            the time and the altitude at which the descent was first seen, infinite where the track does not descend.
            None at a track's start.

    Returns:
        (B, T, S) and (5, B).
    """
    steps = history.shape[1] - _SIMPLE_HISTORY
    columns = np.ascontiguousarray(np.moveaxis(history, -1, 0))  # (M, B, _SIMPLE_HISTORY + T)

    def lagged(column: int, lag: int) -> Float64:
        view: Float64 = columns[column][:, _SIMPLE_HISTORY - lag : _SIMPLE_HISTORY - lag + steps]
        return view

    if so_far is None:
        nothing = np.full(len(history), np.inf)
        so_far = np.stack([-nothing, -nothing, lagged(_TIME, 0)[:, 0], nothing, nothing])
    now = lagged(_TIME, 0)
    ago = [lagged(_TIME, lag) - now for lag in range(WINDOW)]  # s, <= 0
    mean_ago = sum(ago[1:], ago[0]) / WINDOW
    centred = [a - mean_ago for a in ago]
    spread = sum((c * c for c in centred[1:]), centred[0] * centred[0])
    moving = spread > SHORTEST_WINDOW**2
    weights = [np.divide(c, spread, out=np.zeros_like(c), where=moving) for c in centred]

    def slope(column: int, wrap: bool = False) -> Float64:
        """Least-squares slope per second; differences from the newest value keep the sums small."""
        total: Float64 = np.zeros_like(spread)
        newest = lagged(column, 0)
        for lag in range(1, WINDOW):
            change = lagged(column, lag) - newest
            if wrap:
                change = (change + 180.0) % 360.0 - 180.0
            total += weights[lag] * change
        return total

    three = _three(ago[1], ago[2])

    def running_peak(newest: Float64, before: Float64, before_that: Float64, peak: Float64) -> Float64:
        """Highest so far of the median of three, so that one outlier is never the peak; none before the third."""
        median = np.where(three, _median(newest, before, before_that), -np.inf)
        highest: Float64 = np.maximum(np.maximum.accumulate(median, axis=1), peak[:, None])
        return highest

    def fraction(value: Float64, peak: Float64, floor: float) -> Float64:
        """Share of the peak that is left: 1 at the peak, before there is one, and on a launch pad at sea level."""
        fallen = np.where(peak > -np.inf, peak - value, 0.0)
        left: Float64 = 1.0 - fallen / np.maximum(peak, floor)
        return left

    believed = outliers.without_outliers(
        np.clip(columns[_TIME], -_LATEST, _LATEST), np.clip(columns[_ALTITUDE], -_HIGHEST, _HIGHEST), OUTLIER
    )  # (B, 2 + T)
    height = believed[:, 2:]
    # Neither a prediction nor an outlier may become the peak: the last rows of a climb predict that it continues.
    measured = columns[_ALTITUDE][:, outliers.HISTORY :]
    seen = np.where(measured <= believed, measured, -np.inf)
    highest = running_peak(seen[:, 2:], seen[:, 1:-1], seen[:, :-2], so_far[0])
    intensity = [lagged(_INTENSITY, lag) for lag in range(3)]
    brightest = running_peak(intensity[0], intensity[1], intensity[2], so_far[1])
    descends = highest - height > np.maximum(FALLEN_SHARE * highest, LEAST_FALL)
    since, height_then = _first_of_each_run(descends, now, height, so_far[3:])
    elapsed = now - so_far[2][:, None]
    step = -_median(ago[1], ago[2] - ago[1], ago[3] - ago[2])
    north = slope(_LATITUDE) * METRES_PER_DEGREE
    east = slope(_LONGITUDE, wrap=True) * METRES_PER_DEGREE * np.cos(np.radians(lagged(_LATITUDE, 0)))
    by_name = {
        "altitude": lagged(_ALTITUDE, 0),
        "altitude_fraction": fraction(height, highest, LOWEST_PEAK),
        "elapsed_fraction": _elapsed_fraction(elapsed + step, now - since, height_then - height, height),
        "climb_rate": slope(_ALTITUDE),
        "ground_speed": np.hypot(north, east),
        "intensity": intensity[0],
        "intensity_fraction": fraction(intensity[0], brightest, DIMMEST_PEAK),
        "time_step": np.clip(-ago[1], 0.0, LONGEST_STEP),
    }
    features = np.stack([by_name[name] for name in SIMPLE_FEATURES], axis=-1).astype(np.float32)
    after = [highest[:, -1], brightest[:, -1], so_far[2], since[:, -1], height_then[:, -1]]
    return features, np.stack(after)


def _first_of_each_run(inside: Bool, time: Float64, value: Float64, before: Float64) -> tuple[Float64, Float64]:
    """Time and value at the first step of the run of True that a step is in, (B, T); infinite at steps of False.

    Args:
        inside: (B, T).
        time: (B, T), s.
        value: (B, T).
        before: (2, B), time and value of the run that the step before the first was in.
    """
    was_inside = np.concatenate([np.isfinite(before[0])[:, None], inside[:, :-1]], axis=1)
    begun = np.where(inside & ~was_inside, np.arange(inside.shape[1]), -1)
    begun = np.maximum.accumulate(begun, axis=1)

    def at(x: Float64, earlier: Float64) -> Float64:
        taken = np.where(begun >= 0, np.take_along_axis(x, np.maximum(begun, 0), axis=1), earlier[:, None])
        return np.where(inside, taken, np.inf)

    return at(time, before[0]), at(value, before[1])


def _elapsed_fraction(elapsed: Float64, falling: Float64, fallen: Float64, height: Float64) -> Float64:
    """Share of the flight that is over by the end of this step, if the descent keeps its mean rate; 0 to 1.

    The remaining time is height / rate, where the rate is `fallen / falling`: the whole descent so far, so that noise
    counts ever less. The step's own length counts as elapsed: row i of n rows, the last of them at altitude 0, has
    (i + 1) / n. Before a rate is known the share is 0.

    Args:
        elapsed: (B, T), s from the first measurement to the end of this step.
        falling: (B, T), s since the descent was first seen; not finite where the track does not descend.
        fallen: (B, T), m since then.
        height: (B, T), m.
    """
    known = np.isfinite(fallen) & (falling > 0.0) & (fallen > 0.0)
    per_metre = np.divide(falling, fallen, out=np.zeros_like(falling), where=known)
    total = elapsed + np.maximum(height, 0.0) * per_metre
    share: Float64 = np.divide(elapsed, total, out=np.zeros_like(total), where=known & (total > 0.0))
    return share


def _robust_features(history: Float64, running: Float64 | None) -> tuple[Float32, Float64]:
    """Robust features of the steps from HISTORY on, and what runs on after the last.

    Args:
        history: (B, HISTORY + T, M).
        running: (2, B), the highest altitude before these steps and the time of the last handover; None at a track's
            start, which counts as a handover.

    Returns:
        (B, T, F - S) and (2, B).
    """
    columns = np.ascontiguousarray(np.moveaxis(history, -1, 0))  # (M, B, HISTORY + T)
    time = np.clip(columns[_TIME], -_LATEST, _LATEST)
    altitude = np.clip(columns[_ALTITUDE], -_HIGHEST, _HIGHEST)
    sensor = columns[_SENSOR]
    moving = motion(time, columns[_LATITUDE], columns[_LONGITUDE], altitude, sensor)

    now = time[:, HISTORY:]
    height = _median(altitude[:, HISTORY:], altitude[:, HISTORY - 1 : -1], altitude[:, HISTORY - 2 : -2])
    counted = np.where(_three(time[:, HISTORY - 1 : -1] - now, time[:, HISTORY - 2 : -2] - now), height, -np.inf)
    changed = np.where(sensor[:, HISTORY:] != sensor[:, HISTORY - 1 : -1], now, -np.inf)
    before = np.stack([counted[:, 0], now[:, 0]]) if running is None else running
    highest = np.maximum(np.maximum.accumulate(counted, axis=1), before[0][:, None])
    handed_over = np.maximum(np.maximum.accumulate(changed, axis=1), before[1][:, None])

    light = np.clip(columns[_INTENSITY][:, HISTORY - RISE_STEPS - 6 :], DARKEST, _BRIGHTEST)
    light = np.log(_median(light[:, 2:], light[:, 1:-1], light[:, :-2]))  # (B, 12 + T)
    past = sum((light[:, lag : lag + now.shape[1]] for lag in range(1, 5)), light[:, : now.shape[1]]) / 5
    newest = light[:, RISE_STEPS + 4 :]
    by_name = {
        "speed": moving.speed,
        "filtered_climb_rate": moving.climb,
        "log_dynamic_pressure": moving.log_dynamic_pressure,
        "log_intensity": newest,
        "log_intensity_rise": newest - past,
        "handover": np.exp(-np.maximum(now - handed_over, 0.0) / HANDOVER_FADES),
        "drop_from_peak": np.clip(highest - height, 0.0, DEEPEST_DROP),
    }
    for length, drag in zip(("short", "medium", "long"), moving.drags, strict=True):
        by_name[f"drag_{length}"] = np.arcsinh(drag / DRAG_SCALE)
    features = np.stack([by_name[name] for name in ROBUST_FEATURES], axis=-1).astype(np.float32)
    return features, np.stack([highest[:, -1], handed_over[:, -1]])


def _three(last: Float64, before_last: Float64) -> Bool:
    """Whether a step has two others before it, given when they were; the first of a track is repeated in front of it.

    Of fewer than three measurements the median is one of two, or the first alone: an outlier might be the peak.
    """
    different: Bool = last > before_last
    return different


def _median(a: Float64, b: Float64, c: Float64) -> Float64:
    """The median of three arrays, element by element."""
    median: Float64 = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    return median
