"""Quantities of a whole track, such as its duration and apogee, that show whether similar tracks were in the training.

Some quantities come from the raw measurements, the others from the distribution of each feature in the track. All but
the share of outliers are robust to a few outliers. Padding does not change them.

Shapes: B tracks, T steps, M measurement columns, F features, W watched features, S sampled steps, K bins,
Q quantities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from reentry.drift import FIRST_WATCHED_STEP, SHARE_FLOOR, FeatureReference
from reentry.features.track import LOWEST_PEAK, METRES_PER_DEGREE
from reentry.schema import (
    ALTITUDE,
    FEATURES,
    LATITUDE,
    LONGITUDE,
    MEASUREMENT_COLUMNS,
    RADIOMETRIC_INTENSITY,
    TIMESTAMP,
)

Float64 = npt.NDArray[np.float64]

PEAK_QUANTILE: Final = 0.98
"""Quantile of a track's values that counts as its peak, so that a spike does not."""

SAMPLED_STEPS: Final = 128
"""Number of evenly spaced steps of a track whose features are compared with the reference; at most 255 (uint8)."""

EDGE_MARGIN: Final = 0.1
"""Share of a feature's training range by which the outermost bins extend beyond it."""

OUTLIER_WINDOW: Final = 13
"""Window of the running median, in steps. A spike of up to six rows does not move the median."""

OUTLIER_CHANGE: Final = 8.0
"""Minimum distance of an outlier from the running median, in mean changes from one step to the next."""

OUTLIER_DEVIATIONS: Final = 9.0
"""Minimum distance of an outlier in median deviations, equal to six standard deviations of Gaussian noise."""

DRIFT: Final = "drift"
"""Prefix of the quantities that compare the distribution of a feature in the track with the training split."""

_TIME, _LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY = (
    MEASUREMENT_COLUMNS.index(column.name)
    for column in (TIMESTAMP, LATITUDE, LONGITUDE, ALTITUDE, RADIOMETRIC_INTENSITY)
)
_CHECKED_FOR_OUTLIERS: Final = [_LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity that is computed from the raw measurements of a whole track."""

    name: str
    title: str
    """Name of the quantity in messages."""
    unit: str = ""
    scale: Literal["ratio", "share", "count"] = "ratio"
    """How the distance from the training range is measured: as a ratio, as a difference, or only upwards."""
    misread: tuple[tuple[float, str], ...] = ()
    """Common unit mistakes: the factor that corrects each one, and its description."""


QUANTITIES: Final = (
    Quantity(name="rows", title="rows in a track"),
    Quantity(name="time_step", title="time step", unit="s", misread=((1e-3, "milliseconds instead of seconds"),)),
    Quantity(name="duration", title="duration of a track", unit="s"),
    Quantity(name="start", title="first altitude as a share of the apogee", scale="share"),
    Quantity(
        name="apogee",
        title="apogee",
        unit="m",
        misread=((1e3, "kilometres instead of metres"), (0.3048, "feet instead of metres")),
    ),
    Quantity(name="intensity", title="peak of the radiometric intensity", misread=((1e-2, "per cent"),)),
    Quantity(
        name="ground_speed",
        title="ground speed from start to end",
        unit="m/s",
        misread=((180.0 / math.pi, "radians instead of degrees"),),
    ),
    Quantity(name="outliers", title="share of outliers", scale="count"),
)
"""Quantities of the raw measurements, in the order of messages. `track_quantities` computes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBins:
    """Bins of the watched features as arrays. Unused edges at the end of a row are infinite."""

    names: tuple[str, ...]
    """Names of the watched features, (W,)."""
    edges: npt.NDArray[np.float32] = field(repr=False)
    """Bin edges, (W, K + 1)."""
    shares: Float64 = field(repr=False)
    """Share of the training steps below, in and above the bins, (W, K + 2); at least `drift.SHARE_FLOOR`."""

    @classmethod
    def of(cls, features: Mapping[str, FeatureReference]) -> FeatureBins:
        """Build the bins of the given features."""
        most = max(len(feature.edges) for feature in features.values())
        edges = np.full((len(features), most), np.inf, dtype=np.float32)
        shares = np.zeros((len(features), most + 1))
        for row, feature in enumerate(features.values()):
            widened = np.array(feature.edges)
            slack = EDGE_MARGIN * (widened[-1] - widened[0])
            widened[0], widened[-1] = widened[0] - slack, widened[-1] + slack
            edges[row, : len(widened)] = widened
            shares[row, 1 : len(feature.edges)] = feature.shares
        return cls(names=tuple(features), edges=edges, shares=np.maximum(shares, SHARE_FLOOR))


def track_quantities(
    measurements: Float64, features: npt.NDArray[np.float32], length: npt.NDArray[np.integer[Any]], bins: FeatureBins
) -> Float64:
    """Compute all quantities of each track.

    Args:
        measurements: measurements in time order, columns as `schema.MEASUREMENT_COLUMNS`, (B, T, M).
        features: features of the same steps, (B, T or more, F).
        length: number of steps of each track, (B,).
        bins: bins of the watched features.

    Returns:
        Quantities (B, Q), columns as `quantity_names`. NaN means that the track does not have the quantity.
    """
    track, last = np.arange(len(length)), length - 1
    if measurements.shape[1] != length.min():  # replace any padding by copies of the last step
        steps = np.minimum(np.arange(measurements.shape[1]), last[:, None])
        measurements = measurements[track[:, None], steps]
    duration = measurements[track, last, _TIME] - measurements[:, 0, _TIME]
    start = _median_of_three(measurements, np.zeros_like(last), last)
    end = _median_of_three(measurements, np.maximum(last - 2, 0), last)
    apogee, intensity = _peaks(measurements[:, :, [_ALTITUDE, _INTENSITY]], last).T
    raw = {
        "rows": length,
        "time_step": duration / np.maximum(last, 1),
        "duration": duration,
        "start": start[:, _ALTITUDE] / np.maximum(apogee, LOWEST_PEAK),
        "apogee": apogee,
        "intensity": intensity,
        "ground_speed": np.where(
            duration > 0.0, _distance(start, end) / np.where(duration > 0.0, duration, 1.0), np.nan
        ),
        "outliers": _outlier_shares(measurements[:, :, _CHECKED_FOR_OUTLIERS], last),
    }
    return np.column_stack([*(raw[quantity.name] for quantity in QUANTITIES), _stability_indices(features, last, bins)])


def quantity_names(bins: FeatureBins) -> tuple[str, ...]:
    """Names of the quantities, (Q,): those in `QUANTITIES`, then `drift.FEATURE` for each watched feature."""
    return (*(quantity.name for quantity in QUANTITIES), *(f"{DRIFT}.{name}" for name in bins.names))


def _median_of_three(measurements: Float64, first: npt.NDArray[Any], last: npt.NDArray[Any]) -> Float64:
    """Median of each column over the three steps from `first` on, (B, M)."""
    steps = np.minimum(first[:, None] + np.arange(3), last[:, None])
    median: Float64 = np.sort(measurements[np.arange(len(first))[:, None], steps], axis=1)[:, 1]
    return median


def _peaks(values: Float64, last: npt.NDArray[Any]) -> Float64:
    """Value at the quantile `PEAK_QUANTILE` of each track and column: (B, T, C) -> (B, C)."""
    padding = np.arange(values.shape[1]) > last[:, None]
    rank = (PEAK_QUANTILE * last).astype(np.intp)
    ordered = np.partition(np.where(padding[..., None], np.inf, values), np.unique(rank), axis=1)
    peaks: Float64 = ordered[np.arange(len(last)), rank]
    return peaks


def _distance(start: Float64, end: Float64) -> Float64:
    """Great-circle distance between the positions of two measurements, (B, M) each -> (B,), m."""
    latitudes = np.radians(start[:, _LATITUDE]), np.radians(end[:, _LATITUDE])
    north = np.sin((latitudes[1] - latitudes[0]) / 2.0) ** 2
    east = np.sin(np.radians(end[:, _LONGITUDE] - start[:, _LONGITUDE]) / 2.0) ** 2
    angle = 2.0 * np.arcsin(np.sqrt(np.clip(north + np.cos(latitudes[0]) * np.cos(latitudes[1]) * east, 0.0, 1.0)))
    distance: Float64 = np.degrees(angle) * METRES_PER_DEGREE
    return distance


def _outlier_shares(values: Float64, last: npt.NDArray[Any]) -> Float64:
    """Share of outliers in the column of each track that has the most of them: (B, T, C) -> (B,)."""
    change = np.abs(np.diff(values, axis=1))
    shares = np.zeros(len(last))
    if change.shape[1] == 0:
        return shares
    # A spike needs a jump. Most tracks have none, so they can skip the slow running median.
    jumps = change.max(axis=1) > OUTLIER_CHANGE * change.sum(axis=1) / np.maximum(last, 1)[:, None]
    for track, column in np.argwhere(jumps):
        series = values[track, : last[track] + 1, column]
        if _CHECKED_FOR_OUTLIERS[column] == _LONGITUDE:
            series = np.unwrap(series, period=360.0)
        shares[track] = max(shares[track], _outlier_share(series))
    return shares


def _outlier_share(values: Float64) -> float:
    """Share of values (T,) far from their running median. Gaps and turns of the flight do not count as outliers."""
    padded = np.pad(values, OUTLIER_WINDOW // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, OUTLIER_WINDOW), axis=-1)
    deviation = np.abs(values - smooth)
    usual = OUTLIER_CHANGE * np.abs(np.diff(smooth)).mean()
    return float(np.mean(deviation > max(usual, OUTLIER_DEVIATIONS * float(np.median(deviation)))))


def _stability_indices(features: npt.NDArray[np.float32], last: npt.NDArray[Any], bins: FeatureBins) -> Float64:
    """Population stability index of each watched feature in each track, (B, W), see `drift.stability_index`."""
    spread = np.arange(SAMPLED_STEPS) * last[:, None] // SAMPLED_STEPS  # (B, S)
    steps = np.minimum(FIRST_WATCHED_STEP + spread, last[:, None])
    columns = [FEATURES.index(name) for name in bins.names]
    sampled = features[np.arange(len(last))[:, None, None], steps[:, :, None], columns]  # (B, S, W)
    above = (sampled[..., None] >= bins.edges).view(np.uint8).sum(axis=1, dtype=np.uint8)  # (B, W, K + 1)
    shares = np.empty((*above.shape[:2], above.shape[2] + 1))
    shares[..., 0], shares[..., 1:] = SAMPLED_STEPS, above
    shares[..., :-1] -= above
    shares = np.maximum(shares / SAMPLED_STEPS, SHARE_FLOOR)
    indices: Float64 = np.sum((shares - bins.shares) * np.log(shares / bins.shares), axis=-1)
    return indices
