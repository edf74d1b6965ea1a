"""Finds the quantities of a track that lie outside the range in which a version of the network was trained.

The file reference.json of the version holds the minimum and maximum of each quantity over the training split. A margin,
which grows with the width of that range, keeps tracks that are similar to the training from being reported.

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.drift import Reference, watched_features
from reentry.references import ByVersion
from reentry.track_quantities import DRIFT, QUANTITIES, FeatureBins, quantity_names, track_quantities

MARGIN: Final = 0.1
"""Margin around a training range, as a share of its width and of the values at its ends."""

LARGE_DRIFT: Final = 0.5
"""Stability index that is accepted for a single track even if it is near zero for all training tracks."""

_LARGEST: Final = 1e300
_UNKNOWN: Final = (-math.inf, math.inf)
"""Range of a quantity that no training track has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A quantity of a track that lies outside the training range."""

    quantity: str
    """Name of the quantity: one of `track_quantities.quantity_names`."""
    value: float
    low: float
    """Minimum over the training tracks."""
    high: float
    """Maximum over the training tracks."""


class TrainingRange:
    """Training range of one version of the network."""

    def __init__(self, reference: Reference) -> None:
        """Prepare the ranges of a reference.

        Raises:
            ValueError: the reference file has no quantity ranges because it is from an old training.
        """
        if reference.ranges is None:
            raise ValueError("the reference file has no quantity ranges")
        self._bins = FeatureBins.of(watched_features(reference))
        self._names = quantity_names(self._bins)
        self._ranges = [reference.ranges.get(name, _UNKNOWN) for name in self._names]
        spans = [limits(name, *span) for name, span in zip(self._names, self._ranges, strict=True)]
        self._lowest, self._highest = np.transpose(spans)  # (Q,) each

    def findings(
        self,
        measurements: npt.NDArray[np.float64],
        features: npt.NDArray[np.float32],
        length: npt.NDArray[np.integer[Any]],
    ) -> list[list[Finding]]:
        """Findings of each track, from measurements (B, T, M), features (B, T or more, F) and lengths (B,)."""
        with np.errstate(all="ignore"):  # extreme measurements may overflow
            values = track_quantities(measurements, features, length, self._bins)
        found: list[list[Finding]] = [[] for _ in length]
        for track, column in np.argwhere((values < self._lowest) | (values > self._highest)):  # False for NaN
            low, high = self._ranges[column]
            value = _rounded(values[track, column])
            found[track].append(Finding(quantity=self._names[column], value=value, low=low, high=high))
        return found


class TrainingRanges(ByVersion[TrainingRange]):
    """Training ranges of the versions in a model repository."""

    def __init__(self, network: Path) -> None:
        """Read versions from the folder of reentry_lstm."""
        super().__init__(network, _range_of)


def _range_of(reference: Reference) -> TrainingRange | None:
    return None if reference.ranges is None else TrainingRange(reference)


def ranges_of(
    reference: Reference, tracks: Iterable[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]]
) -> dict[str, tuple[float, float]]:
    """Compute the minimum and maximum of each quantity over the tracks of a training split.

    Args:
        reference: reference of the same split.
        tracks: measurements (T, M) and features (T, F) of each track.
    """
    bins = FeatureBins.of(watched_features(reference))
    names = quantity_names(bins)
    ranges: dict[str, tuple[float, float]] = {}
    for measurements, features in tracks:
        values = track_quantities(measurements[None], features[None], np.array([len(measurements)]), bins)[0]
        for name, value in zip(names, map(_rounded, values), strict=True):
            if math.isfinite(value):
                low, high = ranges.get(name, (value, value))
                ranges[name] = min(low, value), max(high, value)
    return ranges


def to_json(findings: Sequence[Finding]) -> str:
    """Encode the findings of a track for a client."""
    return json.dumps([asdict(finding) for finding in findings])


def from_json(text: str | bytes) -> list[Finding]:
    """Decode the result of `to_json`.

    Raises:
        ValueError: the text is not a JSON list of findings.
    """
    try:
        return [
            Finding(
                quantity=str(each["quantity"]),
                value=float(each["value"]),
                low=float(each["low"]),
                high=float(each["high"]),
            )
            for each in json.loads(text)
        ]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"Expected a JSON list of findings. Got: {str(text)[:80]}") from error


def limits(name: str, low: float, high: float) -> tuple[float, float]:
    """Extend the training range of a quantity by the margin within which a track is not reported.

    Args:
        name: name of the quantity.
        low: minimum over the training tracks.
        high: maximum over the training tracks.
    """
    if (low, high) == _UNKNOWN:
        return _UNKNOWN
    if name.startswith(f"{DRIFT}."):
        return -math.inf, LARGE_DRIFT + (1.0 + 5.0 * MARGIN) * high
    scale = next(quantity.scale for quantity in QUANTITIES if quantity.name == name)
    if scale == "count":
        return -math.inf, (1.0 + 5.0 * MARGIN) * high
    if scale == "share":
        slack = MARGIN / 2.0 + MARGIN * (high - low)
        return low - slack, high + slack
    if low <= 0.0 or high <= 0.0:
        return low, high * (1.0 + MARGIN)
    slack = math.exp(MARGIN * (1.0 + math.log(high / low)))
    return low / slack, high * slack


def _rounded(value: Any) -> float:
    """Round to six digits, and clip infinite values, which JSON cannot hold."""
    return float(f"{min(max(value, -_LARGEST), _LARGEST):.6g}")
