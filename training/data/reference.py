"""The reference that a version carries: what its training split looked like, for service to compare with.

Shapes: N steps, T steps of a track, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from reentry.drift import Reference, watched_steps
from reentry.training_range import ranges_of
from training.data.samples import Counts, Sample

REFERENCE_STEPS: Final = 1_000_000
"""Steps that the distributions are taken from; of a larger training split, evenly spaced ones."""

RANGE_TRACKS: Final = 10_000
"""Tracks that the ranges are taken from; of more, evenly spaced ones."""


def reference_of(train: Sequence[Sample], used: tuple[str, ...]) -> Reference:
    """The reference of a training split.

    Args:
        train: its tracks.
        used: names of the features the network looks at.
    """
    every = -(-int(Counts.of(train).steps.sum()) // REFERENCE_STEPS)
    features, phases = [], []
    for sample in train:
        features.append(sample.features[torch.from_numpy(watched_steps(len(sample.phase), every=every))])
        phases.append(sample.phase[::every].clone())  # a view would keep all steps of the track
    reference = Reference.of(torch.cat(features).numpy(), torch.cat(phases).numpy(), used)
    some = (train[index] for index in range(0, len(train), -(-len(train) // RANGE_TRACKS)))
    return replace(
        reference, ranges=ranges_of(reference, ((each.track.measurements, each.features.numpy()) for each in some))
    )
