"""Track -> features, causal: one implementation for whole tracks, for Triton, and for one measurement at a time.

Every feature at step t is a function of the last `WINDOW` measurements and of running maxima, so a whole track, its
prefix and its stream give the same numbers; `FeatureStream` runs the very same arithmetic with T = 1.

Slopes are least-squares lines over the window rather than differences of neighbours: with noise of standard deviation
s and even steps d, a difference has s * sqrt(2) / d, five points have s / (d * sqrt(10)), 4.5 times less. A window in
which time stands still (repeated instants) has slope 0.

Shapes: B tracks, T steps, M measurement columns, F features, W window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.schema import FEATURES, MEASUREMENT_COLUMNS

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

WINDOW: Final = 5
"""Measurements a slope is fitted over."""

METRES_PER_DEGREE: Final = 111_194.93
"""Arc of one degree on a sphere of the mean Earth radius, 6,371,008.8 m (IUGG R1)."""

LOWEST_PEAK: Final = 1_000.0
"""m. Fractions are of at least this altitude, so that the noise on the launch pad is not amplified."""

DIMMEST_PEAK: Final = 0.05
"""The same floor for intensity, whose noise in the public data is 0.01."""

SHORTEST_WINDOW: Final = 1e-6
"""s. In a window of less, time stands still: a Unix time in float64 has no finer steps."""

LONGEST_STEP: Final = 60.0
"""s. A longer silence counts as this long."""

_BLOCK_STEPS: Final = 4096
"""Steps of a batch that are computed together: their arrays stay in the cache, and malloc keeps their memory."""

_TIME, _LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY = (
    MEASUREMENT_COLUMNS.index(name)
    for name in ("timestamp", "latitude", "longitude", "altitude", "radiometric_intensity")
)


def track_features(measurements: Float64) -> Float32:
    """Features of whole tracks.

    Args:
        measurements: (T, M) or (B, T, M), columns as `schema.MEASUREMENT_COLUMNS`, by time, finite.

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
    features = np.empty((*batch.shape[:2], len(FEATURES)), dtype=np.float32)
    block = max(1, _BLOCK_STEPS // batch.shape[1])
    for start in range(0, len(batch), block):
        features[start : start + block], _ = _features(_with_history(batch[start : start + block]), None)
    return features.reshape(*tracks.shape[:-1], len(FEATURES))


class FeatureStream:
    """The same features for one live track, one measurement at a time."""

    def __init__(self) -> None:
        self._window: Float64 | None = None  # (1, W, M), oldest first
        self._peaks: Float64 | None = None

    def step(self, measurement: Float64 | Sequence[float]) -> Float32:
        """Take the track's next measurement, (M,), and return its features, (F,)."""
        newest = np.asarray(measurement, dtype=np.float64)[None, None]
        if self._window is None:
            self._window = _with_history(newest)
        else:
            self._window = np.concatenate([self._window[:, 1:], newest], axis=1)
        features, self._peaks = _features(self._window, self._peaks)
        return features.reshape(len(FEATURES))


def _with_history(tracks: Float64) -> Float64:
    """Repeat the first measurement W - 1 times in front: (B, T, M) -> (B, W - 1 + T, M)."""
    return np.concatenate([np.repeat(tracks[:, :1], WINDOW - 1, axis=1), tracks], axis=1)


def _features(history: Float64, peaks: Float64 | None) -> tuple[Float32, Float64]:
    """Features of the steps from W - 1 on, and the running maxima after the last.

    Args:
        history: (B, W - 1 + T, M).
        peaks: (2, B), the highest altitude and intensity before these steps; None at a track's start.

    Returns:
        (B, T, F) and (2, B).
    """
    steps = history.shape[1] - WINDOW + 1
    columns = np.moveaxis(history, -1, 0)  # (M, B, W - 1 + T)

    def lagged(column: int, lag: int) -> Float64:
        view: Float64 = columns[column][:, WINDOW - 1 - lag : WINDOW - 1 - lag + steps]
        return view

    ago = [lagged(_TIME, lag) - lagged(_TIME, 0) for lag in range(WINDOW)]  # s, <= 0
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

    def running_peak(column: int, index: int) -> Float64:
        """Highest so far of the median of three, so that one outlier is never the peak."""
        a, b, c = lagged(column, 0), lagged(column, 1), lagged(column, 2)
        median = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
        before = np.full(len(a), -np.inf) if peaks is None else peaks[index]
        peak: Float64 = np.maximum(np.maximum.accumulate(median, axis=1), before[:, None])
        return peak

    def fraction(column: int, peak: Float64, floor: float) -> Float64:
        """What is left of the peak: 1 while it rises, a pad at sea level included; 0 when all of it is lost."""
        left: Float64 = 1.0 - (peak - lagged(column, 0)) / np.maximum(peak, floor)
        return left

    highest = running_peak(_ALTITUDE, 0)
    brightest = running_peak(_INTENSITY, 1)
    north = slope(_LATITUDE) * METRES_PER_DEGREE
    east = slope(_LONGITUDE, wrap=True) * METRES_PER_DEGREE * np.cos(np.radians(lagged(_LATITUDE, 0)))
    by_name = {
        "altitude": lagged(_ALTITUDE, 0),
        "altitude_fraction": fraction(_ALTITUDE, highest, LOWEST_PEAK),
        "climb_rate": slope(_ALTITUDE),
        "ground_speed": np.hypot(north, east),
        "intensity": lagged(_INTENSITY, 0),
        "intensity_fraction": fraction(_INTENSITY, brightest, DIMMEST_PEAK),
        "time_step": np.clip(-ago[1], 0.0, LONGEST_STEP),
    }
    features = np.stack([by_name[name] for name in FEATURES], axis=-1).astype(np.float32)
    return features, np.stack([highest[:, -1], brightest[:, -1]])
