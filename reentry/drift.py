"""Drift between the features that a server computes and the features that its network was trained on.

Drift is measured against a reference: the deciles of each feature in the training split. The file reference.json beside
model.onnx holds the reference, so that each version of the network has its own.

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
from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.schema import FEATURES, SCHEMA_VERSION, SIMPLE_FEATURES

REFERENCE_FILE: Final = "reference.json"
"""File name of the reference in the folder of a version of reentry_lstm."""

NARROWEST_BIN: Final = 1e-3
"""Minimum bin width as a share of the training range. Narrower bins would measure noise of the altitude or clock."""

FIRST_WATCHED_STEP: Final = 1
"""Index of the first step of a track that counts for drift. The `time_step` of step 0 is always 0."""

SHARE_FLOOR: Final = 1e-4
"""Minimum share of a bin, which keeps the index finite if a bin is empty."""

WINDOW_TRACKS: Final = 500
"""Number of newer tracks after which the weight of a track is 1/e. Steps of one track are too similar to count."""

FEWEST_TRACKS: Final = 50
"""Minimum number of tracks for an index. With fewer tracks, chance alone could trigger an alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReference:
    """Distribution of one feature in the training split."""

    edges: tuple[float, ...]
    """Bin edges, (K + 1,), ascending: the deciles, from just below the smallest value to just above the largest."""
    shares: tuple[float, ...]
    """Share of the training steps in each bin, (K,)."""
    used: bool
    """Whether the network uses this feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Statistics of a training split that drift and the training range are measured against."""

    features: dict[str, FeatureReference]
    """Distribution of each feature, in the order of `schema.FEATURES`."""
    reentry_share: float
    """Share of the training steps that are in reentry."""
    ranges: dict[str, tuple[float, float]] | None = None
    """Minimum and maximum of each quantity over the training tracks, see `track_quantities`. None in old references."""
    orbit_prior: tuple[tuple[float, ...], ...] | None = None
    """Probability of each ballistic coefficient at each speed at entry, R tuples of G numbers, see
    `reentry.features.orbit_posterior`. None if the network does not use the orbit filter."""
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(cls, features: npt.NDArray[np.float32], phase: npt.NDArray[Any], used: tuple[str, ...]) -> Reference:
        """Compute the reference of a training split.

        Args:
            features: features of the steps that `watched_steps` selects, (N, F).
            phase: phase of all steps, 0 or 1.
            used: names of the features that the network uses.
        """
        return cls(
            features={
                name: feature_reference(features[:, column].astype(np.float64), name in used)
                for column, name in enumerate(FEATURES)
            },
            reentry_share=float(np.mean(phase)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Convert the reference to a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Reference:
        """Create a reference from the result of `as_dict`.

        Raises:
            CheckpointError: the dict is invalid or has another schema version.
        """
        try:
            if content["schema_version"] != SCHEMA_VERSION or tuple(content["features"]) != FEATURES:
                raise CheckpointError("the drift reference has another schema version, or other features")
            ranges = content.get("ranges")
            return cls(
                features={
                    name: FeatureReference(
                        edges=tuple(feature["edges"]), shares=tuple(feature["shares"]), used=bool(feature["used"])
                    )
                    for name, feature in content["features"].items()
                },
                reentry_share=float(content["reentry_share"]),
                ranges=None
                if ranges is None
                else {str(name): (float(low), float(high)) for name, (low, high) in ranges.items()},
                orbit_prior=_valid_prior(content.get("orbit_prior")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the drift reference is invalid: {error!r}") from error

    @classmethod
    def load(cls, folder: Path) -> Reference | None:
        """Load the reference of a version from its folder; None if the folder has none, as with old checkpoints.

        Raises:
            CheckpointError: the file exists but is invalid.
        """
        path = folder / REFERENCE_FILE
        if not path.is_file():
            return None
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (CheckpointError, ValueError) as error:
            raise CheckpointError(str(error), where=str(path), fix="export the version again") from error


class Drift:
    """Compares the features of recent tracks with a reference; the weight of older tracks decays exponentially."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._edges = {name: np.asarray(feature.edges) for name, feature in watched_features(reference).items()}
        self._counts = {name: np.zeros(len(edges) + 1) for name, edges in self._edges.items()}
        self._tracks = 0

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the features whose drift is measured."""
        return tuple(self._edges)

    def add(self, features: npt.NDArray[np.float32], tracks: int) -> dict[str, int]:
        """Add features (N, F) of steps from the given number of tracks.

        Returns:
            Number of steps outside the training range for each watched feature.
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
        """Population stability index of each feature; empty if there are fewer than `FEWEST_TRACKS` tracks."""
        if self._tracks < FEWEST_TRACKS:
            return {}
        return {
            name: stability_index(counts / counts.sum(), np.array([0.0, *self.reference.features[name].shares, 0.0]))
            for name, counts in self._counts.items()
            if counts.any()  # tracks of a single step have no watched step
        }


def watched_features(reference: Reference) -> dict[str, FeatureReference]:
    """Select the simple features, and the robust features and orbit features that the network uses.

    The server may not have computed the others of these, see `reentry.triton.feature_demand`.
    """
    return {name: feature for name, feature in reference.features.items() if feature.used or name in SIMPLE_FEATURES}


def watched_steps(steps: int, *, every: int = 1, start: int = 0) -> npt.NDArray[np.int64]:
    """Select the steps of a track that count for drift, both in training and on a server.

    Args:
        steps: number of steps of the track.
        every: distance between selected steps.
        start: offset of the first selected step from `FIRST_WATCHED_STEP`.
    """
    return np.arange(FIRST_WATCHED_STEP + start, steps, every)


def bin_counts(
    values: npt.NDArray[np.floating[Any]],
    edges: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[Any]:
    """Count values (N,) below the first of K + 1 edges, in each of the K bins and from the last edge on: (K + 2,).

    With weights (N,) the counts are sums of weights.
    """
    bins = np.searchsorted(edges, values, side="right")
    counts: npt.NDArray[Any] = np.bincount(bins, weights, minlength=len(edges) + 1)
    return counts


def stability_index(actual: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Population stability index of two distributions over the same bins, (K,) each: the sum of (a - e) ln(a / e).

    The index is the symmetrised Kullback-Leibler divergence. It comes from credit scoring, where an index below 0.1
    means no change and an index above 0.25 a large change (Siddiqi, Credit Risk Scorecards, 2006).
    """
    a, e = np.maximum(actual, SHARE_FLOOR), np.maximum(expected, SHARE_FLOOR)
    return float(np.sum((a - e) * np.log(a / e)))


def _valid_prior(rows: Any) -> tuple[tuple[float, ...], ...] | None:
    """Check the prior of a reference.

    Raises:
        ValueError: the prior has another shape, or a row is not a probability distribution.
    """
    if rows is None:
        return None
    prior = np.array(rows, np.float64)
    if prior.shape != (len(SPEEDS), len(COEFFICIENTS)):
        raise ValueError(f"orbit_prior has shape {prior.shape}, expected {(len(SPEEDS), len(COEFFICIENTS))}")
    if not (prior >= 0.0).all() or not np.allclose(prior.sum(axis=-1), 1.0, rtol=0.0, atol=1e-3):
        raise ValueError("orbit_prior has a row that is not a probability distribution")
    return tuple(map(tuple, prior.tolist()))


def feature_reference(values: npt.NDArray[np.float64], used: bool) -> FeatureReference:
    """Return the distribution of the values (N,) of a feature; `used` is whether the network uses it."""
    low, *inner, high = np.quantile(values, np.linspace(0.0, 1.0, 11)).tolist()
    # A constant feature has no range, so its bin is only as wide as float32 noise.
    narrowest = NARROWEST_BIN * ((high - low) or max(abs(high), 1.0))
    edges = [low - narrowest]
    for edge in _inner_edges([low, *inner, high], narrowest):
        if edge - edges[-1] >= narrowest and high + narrowest - edge >= narrowest:
            edges.append(edge)
    edges.append(high + narrowest)
    counts = bin_counts(values, np.asarray(edges))[1:-1]
    return FeatureReference(edges=tuple(edges), shares=tuple((counts / counts.sum()).tolist()), used=used)


def _inner_edges(deciles: list[float], narrowest: float) -> Iterator[float]:
    """Inner bin edges from the deciles: equal deciles are replaced by the two edges of a narrow bin around them.

    Deciles are equal where many steps have the same value. Without a bin of its own, that value would share a bin with
    all values up to the next decile.
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
