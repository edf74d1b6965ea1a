"""The drift reference of a checkpoint: distributions and ranges of the training split, which serving compares with.

Shapes: N steps, T steps of a track, F features, R speeds, G coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from reentry.drift import Reference, watched_steps
from reentry.training_range import ranges_of
from training.data.samples import Sample, sampling_stride

REFERENCE_STEPS: Final = 1_000_000
"""Number of steps that the distributions are computed from. A larger training split is sampled evenly."""

RANGE_TRACKS: Final = 10_000
"""Number of tracks that the ranges are computed from. A larger training split is sampled evenly."""


def reference_of(
    train: Sequence[Sample], used: tuple[str, ...], *, orbit_prior: npt.NDArray[np.float64] | None = None
) -> Reference:
    """Compute the drift reference of a training split.

    Args:
        train: samples of the training split.
        used: names of the features that the network uses.
        orbit_prior: prior that the network has learned, (R, G), see `reentry.features.orbit_posterior`; None if it does
            not use the orbit filter.
    """
    every = sampling_stride(train, REFERENCE_STEPS)
    features, phases = [], []
    for sample in train:
        features.append(sample.features[torch.from_numpy(watched_steps(len(sample.phase), every=every))])
        phases.append(sample.phase[::every].clone())  # a view would keep the whole track in memory
    reference = Reference.of(torch.cat(features).numpy(), torch.cat(phases).numpy(), used)
    chosen = (train[index] for index in range(0, len(train), -(-len(train) // RANGE_TRACKS)))
    return replace(
        reference,
        ranges=ranges_of(reference, ((each.track.measurements, each.features.numpy()) for each in chosen)),
        orbit_prior=None if orbit_prior is None else tuple(map(tuple, orbit_prior.tolist())),
    )
