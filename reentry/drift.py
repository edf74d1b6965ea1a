"""Drift: how far the features that are served have moved from those the network was trained on.

The reference, quantiles of the training split, travels with the version of the network (reference.json beside
model.onnx), so that a new version brings its own.

Shapes: N steps, F features, K bins inside the training range.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import CheckpointError
from reentry.schema import FEATURES, SCHEMA_VERSION, SIMPLE_FEATURES

REFERENCE_FILE: Final = "reference.json"
"""In the folder of a version of reentry_lstm."""

NARROWEST_BIN: Final = 1e-3
"""Of the training range. Narrower ones would watch the noise of a level flight, or of a clock, not the flight."""

FIRST_WATCHED_STEP: Final = 1
"""Index of the first step of a track that drift looks at: the step before it has no predecessor, so its `time_step`
is 0 whatever the rate of measurements."""

SHARE_FLOOR: Final = 1e-4
"""An empty bin counts as this share, so that the index stays finite."""

WINDOW_TRACKS: Final = 500
"""Tracks after which an older one weighs 1/e. Steps of one track are alike, so tracks are what counts."""

FEWEST_TRACKS: Final = 50
"""Before that many, chance alone moves the index about as far as an alert asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReference:
    """One feature in the training split."""

    edges: tuple[float, ...]
    """K + 1, ascending: the deciles, from just below the smallest value to just above the largest."""
    shares: tuple[float, ...]
    """K: share of the training steps between them."""
    used: bool
    """Whether the network looks at this feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The training split, as far as drift is measured against it."""

    features: dict[str, FeatureReference]
    """All of `schema.FEATURES`, in order."""
    reentry_share: float
    """Share of the training steps in reentry."""
    ranges: dict[str, tuple[float, float]] | None = None
    """Least and most of each quantity of a whole training track, see `training_range`; None in older references."""
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, features: npt.NDArray[np.float32], phase: npt.NDArray[Any], used: tuple[str, ...]) -> Reference:
        """The reference of a training split.

        Args:
            features: (N, F), of the steps that `watched_steps` chooses.
            phase: 0 or 1, of all steps: those served count from the first on.
            used: names of the features the network looks at.
        """
        return cls(
            features={
                name: _feature_reference(features[:, column].astype(np.float64), name in used)
                for column, name in enumerate(FEATURES)
            },
            reentry_share=float(np.mean(phase)),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Reference:
        """Of what `as_dict` gave.

        Raises:
            CheckpointError: another schema version, or not such a dict.
        """
        try:
            if content["schema_version"] != SCHEMA_VERSION or tuple(content["features"]) != FEATURES:
                raise CheckpointError("drift reference of another schema version, or of other features")
            return cls(
                features={
                    name: FeatureReference(
                        edges=tuple(feature["edges"]), shares=tuple(feature["shares"]), used=bool(feature["used"])
                    )
                    for name, feature in content["features"].items()
                },
                reentry_share=float(content["reentry_share"]),
                ranges=_ranges_from(content.get("ranges")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"broken drift reference: {error!r}") from error

    @classmethod
    def load(cls, folder: Path) -> Reference | None:
        """Of a version's folder; None where it has none, as a version of an older checkpoint.

        Raises:
            CheckpointError: a file is there and cannot be used.
        """
        path = folder / REFERENCE_FILE
        if not path.is_file():
            return None
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (CheckpointError, ValueError) as error:
            raise CheckpointError(str(error), where=str(path), fix="export the version again") from error


class Drift:
    """Features as they come in, counted by the bins of a reference; older tracks are forgotten bit by bit."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._edges = {name: np.asarray(feature.edges) for name, feature in watched_features(reference).items()}
        self._counts = {name: np.zeros(len(edges) + 1) for name, edges in self._edges.items()}
        self._tracks = 0

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the features that are counted."""
        return tuple(self._edges)

    def add(self, features: npt.NDArray[np.float32], tracks: int) -> dict[str, int]:
        """Count steps (N, F) of so many tracks.

        Returns:
            How many of the steps lie outside the training range, by watched feature.
        """
        keep = math.exp(-tracks / WINDOW_TRACKS)
        self._tracks += tracks
        outside = {}
        for name, edges in self._edges.items():
            counts = bin_counts(features[:, FEATURES.index(name)], edges)
            self._counts[name] = keep * self._counts[name] + counts
            outside[name] = int(counts[0] + counts[-1])
        return outside

    def indices(self) -> dict[str, float]:
        """Population stability index by feature; empty before `FEWEST_TRACKS` tracks."""
        if self._tracks < FEWEST_TRACKS:
            return {}
        return {
            name: stability_index(counts / counts.sum(), np.array([0.0, *self._reference.features[name].shares, 0.0]))
            for name, counts in self._counts.items()
            if counts.any()  # tracks of a single step leave nothing to watch
        }


def watched_features(reference: Reference) -> dict[str, FeatureReference]:
    """The simple features, and of the robust ones those that the network looks at.

    The others may not have been computed, see `reentry.triton.feature_demand`.
    """
    return {name: of for name, of in reference.features.items() if of.used or name in SIMPLE_FEATURES}


def watched_steps(steps: int, *, every: int = 1, start: int = 0) -> npt.NDArray[np.int64]:
    """Indices of the steps of a track that count for drift, in training and in service alike.

    Args:
        steps: length of the track.
        every: distance from one to the next.
        start: how far the first of them lies behind `FIRST_WATCHED_STEP`.
    """
    return np.arange(FIRST_WATCHED_STEP + start, steps, every)


def bin_counts(values: npt.NDArray[np.floating[Any]], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Values (N,) below the first of K + 1 edges, in each of the K bins, and from the last edge on: (K + 2,)."""
    counts: npt.NDArray[np.int64] = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return counts


def stability_index(actual: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Population stability index of two distributions over the same bins, (K,) each: sum of (a - e) ln(a / e).

    The symmetrised Kullback-Leibler divergence. By convention of credit scoring, where it comes from (Siddiqi, Credit
    Risk Scorecards, 2006), below 0.1 nothing has changed, above 0.25 much has.
    """
    a, e = np.maximum(actual, SHARE_FLOOR), np.maximum(expected, SHARE_FLOOR)
    return float(np.sum((a - e) * np.log(a / e)))


def _ranges_from(content: Any) -> dict[str, tuple[float, float]] | None:
    return None if content is None else {str(name): (float(low), float(high)) for name, (low, high) in content.items()}


def _feature_reference(values: npt.NDArray[np.float64], used: bool) -> FeatureReference:
    low, *inner, high = np.quantile(values, np.linspace(0.0, 1.0, 11)).tolist()
    # A constant feature has no range of its own: any change that float32 can tell from noise is outside.
    narrowest = NARROWEST_BIN * ((high - low) or max(abs(high), 1.0))
    edges = [low - narrowest]
    for edge in _inner_edges([low, *inner, high], narrowest):
        if edge - edges[-1] >= narrowest and high + narrowest - edge >= narrowest:
            edges.append(edge)
    edges.append(high + narrowest)
    counts = bin_counts(values, np.asarray(edges))[1:-1]
    return FeatureReference(edges=tuple(edges), shares=tuple((counts / counts.sum()).tolist()), used=used)


def _inner_edges(deciles: list[float], narrowest: float) -> Iterator[float]:
    """The deciles; of those that coincide, as where most steps have one value, the borders of a narrow bin around them.

    Otherwise such a value would share its bin with whatever lies between it and the next decile.
    """
    first = 0
    for last, decile in enumerate(deciles):
        if last + 1 < len(deciles) and deciles[last + 1] - deciles[first] < narrowest:
            continue
        if last > first:
            yield from (deciles[first] - narrowest, decile + narrowest)
        elif 0 < last < len(deciles) - 1:
            yield decile
        first = last + 1
