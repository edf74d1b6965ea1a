"""Quantities of a whole track that show whether a network was trained on its like: rate, length, height, outliers.

They are made of raw measurements, and of how the features of the track are distributed. Each is robust to a few
outliers, except the share of them. What follows a track's length is padding and changes nothing.

Shapes: B tracks, T steps, M measurement columns, F features, W watched features, S sampled steps, K bins,
Q quantities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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
"""Share of a track's steps that lie below its peak, so that a spike is none."""

SAMPLED_STEPS: Final = 128
"""Steps of a track whose features are compared with the training's distribution, evenly spaced; 255 at most."""

EDGE_MARGIN: Final = 0.1
"""Share of a feature's training range by which the outermost bins are wider than it."""

OUTLIER_WINDOW: Final = 13
"""Steps of the running median that outliers are told by: a spike of up to six rows does not move it."""

OUTLIER_CHANGE: Final = 8.0
"""An outlier is further from the running median than so many mean changes from one step to the next."""

OUTLIER_DEVIATIONS: Final = 9.0
"""And further than so many median deviations, six standard deviations of Gaussian noise."""

RAW_QUANTITIES: Final = ("rows", "time_step", "duration", "start", "apogee", "intensity", "ground_speed", "outliers")
"""Quantities of raw measurements; `training_range.QUANTITIES` says what messages call them."""

DRIFT: Final = "drift"
"""Kind of quantity that says how far the distribution of a feature in the track is from that in the training."""

_TIME, _LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY = (
    MEASUREMENT_COLUMNS.index(column.name)
    for column in (TIMESTAMP, LATITUDE, LONGITUDE, ALTITUDE, RADIOMETRIC_INTENSITY)
)
_CHECKED: Final = [_LATITUDE, _LONGITUDE, _ALTITUDE, _INTENSITY]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBins:
    """The bins of the watched features as arrays; features of fewer bins have empty ones from infinity on."""

    names: tuple[str, ...]
    """(W,)."""
    edges: npt.NDArray[np.float32] = field(repr=False)
    """(W, K + 1)."""
    shares: Float64 = field(repr=False)
    """(W, K + 2): training steps below, in and above the bins, at least `monitoring.SHARE_FLOOR`."""

    @classmethod
    def of(cls, features: Mapping[str, FeatureReference]) -> FeatureBins:
        """Bins of the features to watch, by name."""
        most = max(len(feature.edges) for feature in features.values())
        edges = np.full((len(features), most), np.inf, dtype=np.float32)
        shares = np.zeros((len(features), most + 1))
        for row, feature in enumerate(features.values()):
            own = np.array(feature.edges)
            slack = EDGE_MARGIN * (own[-1] - own[0])  # a track that is just beyond has not left the range
            own[0], own[-1] = own[0] - slack, own[-1] + slack
            edges[row, : len(own)] = own
            shares[row, 1 : len(feature.edges)] = feature.shares
        return cls(names=tuple(features), edges=edges, shares=np.maximum(shares, SHARE_FLOOR))


def track_quantities(
    measurements: Float64, features: npt.NDArray[np.float32], length: npt.NDArray[np.integer[Any]], bins: FeatureBins
) -> Float64:
    """All quantities of each track.

    Args:
        measurements: (B, T, M), columns as `schema.MEASUREMENT_COLUMNS`, by time.
        features: (B, T or more, F).
        length: (B,), steps of each track.
        bins: of the features to watch.

    Returns:
        (B, Q), columns as `quantity_names`; NaN where a track has no such quantity.
    """
    track, last = np.arange(len(length)), length - 1
    if measurements.shape[1] != length.min():  # padding must look like the last step
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
        "outliers": _outliers(measurements[:, :, _CHECKED], last),
    }
    return np.column_stack([*(raw[name] for name in RAW_QUANTITIES), _stability_indices(features, last, bins)])


def quantity_names(bins: FeatureBins) -> tuple[str, ...]:
    """Names of the quantities, (Q,): those of raw measurements, and `drift.FEATURE` for each watched feature."""
    return (*RAW_QUANTITIES, *(f"{DRIFT}.{name}" for name in bins.names))


def _median_of_three(measurements: Float64, first: npt.NDArray[Any], last: npt.NDArray[Any]) -> Float64:
    """(B, M), of the steps from `first` on, column by column."""
    steps = np.minimum(first[:, None] + np.arange(3), last[:, None])
    median: Float64 = np.sort(measurements[np.arange(len(first))[:, None], steps], axis=1)[:, 1]
    return median


def _peaks(values: Float64, last: npt.NDArray[Any]) -> Float64:
    """(B, T, C) -> (B, C), the value below which `PEAK_QUANTILE` of the steps lie."""
    padding = np.arange(values.shape[1]) > last[:, None]
    place = (PEAK_QUANTILE * last).astype(np.intp)
    ordered = np.partition(np.where(padding[..., None], np.inf, values), np.unique(place), axis=1)
    peaks: Float64 = ordered[np.arange(len(last)), place]
    return peaks


def _distance(start: Float64, end: Float64) -> Float64:
    """Great-circle distance in m between the positions of two measurements, (B, M) each."""
    latitudes = np.radians(start[:, _LATITUDE]), np.radians(end[:, _LATITUDE])
    north = np.sin((latitudes[1] - latitudes[0]) / 2.0) ** 2
    east = np.sin(np.radians(end[:, _LONGITUDE] - start[:, _LONGITUDE]) / 2.0) ** 2
    angle = 2.0 * np.arcsin(np.sqrt(np.clip(north + np.cos(latitudes[0]) * np.cos(latitudes[1]) * east, 0.0, 1.0)))
    distance: Float64 = np.degrees(angle) * METRES_PER_DEGREE
    return distance


def _outliers(values: Float64, last: npt.NDArray[Any]) -> Float64:
    """(B, T, C) -> (B,), the share of a track's steps that are outliers in the column that has most of them."""
    change = np.abs(np.diff(values, axis=1))
    shares = np.zeros(len(last))
    if change.shape[1] == 0:
        return shares
    # A spike has a jump at its border, and most tracks have none: they need no running median.
    jumps = change.max(axis=1) > OUTLIER_CHANGE * change.sum(axis=1) / np.maximum(last, 1)[:, None]
    for track, column in np.argwhere(jumps):
        own = values[track, : last[track] + 1, column]
        if _CHECKED[column] == _LONGITUDE:
            own = np.unwrap(own, period=360.0)
        shares[track] = max(shares[track], _outlier_share(own))
    return shares


def _outlier_share(values: Float64) -> float:
    """Share of the steps (T,) that are far from their running median; a gap or a bend leaves no step far from it."""
    padded = np.pad(values, OUTLIER_WINDOW // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, OUTLIER_WINDOW), axis=-1)
    deviation = np.abs(values - smooth)
    usual = OUTLIER_CHANGE * np.abs(np.diff(smooth)).mean()
    return float(np.mean(deviation > max(usual, OUTLIER_DEVIATIONS * float(np.median(deviation)))))


def _stability_indices(features: npt.NDArray[np.float32], last: npt.NDArray[Any], bins: FeatureBins) -> Float64:
    """(B, W), how far the features of each track alone are from the training's, see `monitoring.stability_index`."""
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
