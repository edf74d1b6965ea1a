"""The range of its training: which quantities of a track lie outside what a version of the network was trained on.

The range is that of the training split, kept in the version's reference.json. A track counts as outside when it is so
by a margin that depends on how wide the range is, so that like tracks do not.

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from reentry.drift import REFERENCE_FILE, Reference, watched_features
from reentry.errors import CheckpointError
from reentry.track_quantities import DRIFT, FeatureBins, quantity_names, track_quantities

MARGIN: Final = 0.1
"""Share of a range, and of the value at its end, by which a track may lie outside."""

LARGE_DRIFT: Final = 0.5
"""Index that a single track may have where all of the training have next to none."""

_LARGEST: Final = 1e300
_UNKNOWN: Final = (-math.inf, math.inf)
"""The range of a quantity that no training track has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A quantity of a whole track."""

    name: str
    title: str
    """What a message calls it."""
    unit: str = ""
    scale: Literal["ratio", "share", "count"] = "ratio"
    """How a distance from the range is measured: as a ratio, as a difference, or only upwards."""
    misread: tuple[tuple[float, str], ...] = ()
    """Factors that would bring the quantity into its range, and which mistake each would be."""


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
"""In the order in which they are named; `track_quantities` says how each is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A quantity of a track that lies outside the range of the training."""

    quantity: str
    """Of QUANTITIES, or `drift.FEATURE`: the index of that feature."""
    value: float
    low: float
    """Least in the training."""
    high: float
    """Most in the training."""


class TrainingRange:
    """The range of one version of the network."""

    def __init__(self, reference: Reference) -> None:
        """Take the range of a reference that has one.

        Raises:
            ValueError: the reference has no ranges, as one of an older training.
        """
        if reference.ranges is None:
            raise ValueError("the reference has no ranges")
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
        """What lies outside, track by track: measurements (B, T, M), features (B, T or more, F), length (B,)."""
        with np.errstate(all="ignore"):  # of absurd measurements
            values = track_quantities(measurements, features, length, self._bins)
        found: list[list[Finding]] = [[] for _ in length]
        for track, column in np.argwhere((values < self._lowest) | (values > self._highest)):  # NaN is neither
            low, high = self._ranges[column]
            value = _rounded(values[track, column])
            found[track].append(Finding(quantity=self._names[column], value=value, low=low, high=high))
        return found


class TrainingRanges:
    """The ranges of the versions beside a running server; the one that answered last is kept."""

    def __init__(self, network: Path) -> None:
        """Take the folder of reentry_lstm; where there is none, as of models in a bucket, no range is known."""
        self._network = network
        self._key: tuple[int, int] | None = None
        self._range: TrainingRange | None = None

    def of(self, version: int) -> TrainingRange | None:
        """The range of a version; None where its reference is missing, broken, or has none."""
        folder = self._network / str(version)
        try:
            key = version, (folder / REFERENCE_FILE).stat().st_mtime_ns
        except OSError:
            return None
        if key != self._key:
            self._key, self._range = key, None
            try:
                reference = Reference.load(folder)
            except CheckpointError:  # `reentry.triton.telemetry` logs it
                reference = None
            if reference is not None and reference.ranges is not None:
                self._range = TrainingRange(reference)
        return self._range


def ranges_of(
    reference: Reference, tracks: Iterable[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]]
) -> dict[str, tuple[float, float]]:
    """Least and most of each quantity over tracks of a training split.

    Args:
        reference: of the same split.
        tracks: measurements (T, M) and features (T, F) of each.
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
    """The findings of a track as they cross to a client."""
    return json.dumps([_plain(finding) for finding in findings])


def from_json(text: str | bytes) -> list[Finding]:
    """Read what `to_json` wrote.

    Raises:
        ValueError: the text is something else.
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


def _plain(finding: Finding) -> dict[str, Any]:
    return {"quantity": finding.quantity, "value": finding.value, "low": finding.low, "high": finding.high}


def limits(name: str, low: float, high: float) -> tuple[float, float]:
    """What a track of the training's kind stays within.

    Args:
        name: of the quantity.
        low: least in the training.
        high: most in the training.
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
    """Six digits, and finite: JSON has no infinity."""
    return float(f"{min(max(value, -_LARGEST), _LARGEST):.6g}")
