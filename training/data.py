"""Labelled tracks as tensors: read, split by track, padded into batches with the weight of every step.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reentry.buckets import pad_steps
from reentry.errors import InputError
from reentry.features import track_features
from reentry.schema import REENTRY_PHASE
from reentry.tracks import ReadReport, Track, read_tracks
from training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled track, ready for the network and for the baselines."""

    track: Track
    features: Tensor
    """(T, F) float32."""
    phase: Tensor
    """(T,) float32, 0 or 1."""


class Batch(NamedTuple):
    """Tracks of one step of training, padded on the right."""

    features: Tensor
    """(B, T, F); padding repeats the last row, which a causal network cannot see from the track."""
    phase: Tensor
    """(B, T)."""
    weight: Tensor
    """(B, T), how much each step counts in the loss; 0 in the padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFile:
    """The tracks of a file that can be learned from."""

    samples: list[Sample]
    report: ReadReport
    """What was repaired in the file and set aside from it."""


def read_labelled(path: Path) -> LabelledFile:
    """Read labelled tracks into memory.

    Raises:
        TrackFileError: the file cannot be used as a whole.
        InputError: its good tracks are none or have no labels.
    """
    with read_tracks(path, labelled=True) as file:
        return LabelledFile(samples=samples_of(list(file), where=str(path)), report=file.report)


def samples_of(tracks: Sequence[Track], *, where: str) -> list[Sample]:
    """Features and labels of tracks.

    Args:
        tracks: at least one, all with labels.
        where: named in errors, the file.

    Raises:
        InputError: no tracks, or no labels.
    """
    samples = []
    for track in tracks:
        if track.reentry_phase is None:
            raise InputError(
                "no labels", where=where, expected=f"a column {REENTRY_PHASE.name}", fix="train on labelled tracks"
            )
        samples.append(
            Sample(
                track=track,
                features=torch.from_numpy(track_features(track.measurements)),
                phase=torch.from_numpy(track.reentry_phase.astype(np.float32)),
            )
        )
    if not samples:
        raise InputError("no good track", where=where)
    return samples


def split(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation split, by whole tracks; at least one track each.

    Raises:
        InputError: fewer than two tracks, or only one phase in all of them or in the training split.
    """
    if len(samples) < 2:
        raise InputError("too few labelled tracks", expected="2 at least, one to validate with", got=str(len(samples)))
    share_in_reentry = _share_in_reentry(samples)
    if share_in_reentry in (0.0, 1.0):
        raise InputError(
            f"every {REENTRY_PHASE.name} is the same", expected="both 0 and 1", got=f"only {share_in_reentry:.0f}"
        )
    held = min(max(1, round(len(samples) * share)), len(samples) - 1)
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = set(order[:held].tolist())
    train = [sample for i, sample in enumerate(samples) if i not in chosen]
    if _share_in_reentry(train) in (0.0, 1.0):
        raise InputError(
            f"the training split of seed {seed} holds only one phase", fix="give more tracks, or another --seed"
        )
    return train, [samples[i] for i in sorted(chosen)]


class Collate:
    """Samples -> Batch."""

    def __init__(self, config: TrainConfig, train: Sequence[Sample]) -> None:
        share = _share_in_reentry(train)
        # Both phases weigh the same in all, and a step weighs 1 on average.
        self._of_phase = torch.tensor([0.5 / (1.0 - share), 0.5 / share] if config.class_weighting else [1.0, 1.0])
        self._config = config

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Pad to the longest."""
        longest = max(len(sample.phase) for sample in samples)
        features = torch.stack([_padded(sample.features, longest) for sample in samples])
        phase = torch.stack([_padded(sample.phase, longest) for sample in samples])
        weight = torch.zeros_like(phase)
        for row, sample in enumerate(samples):
            weight[row, : len(sample.phase)] = self._weight(sample.phase)
        return Batch(features, phase, weight)

    def _weight(self, phase: Tensor) -> Tensor:
        """(T,). The extra near an onset is even on both sides: it sharpens the boundary and does not shift it."""
        weight = self._of_phase[phase.long()]
        onsets = torch.nonzero(phase[1:] > phase[:-1])[:, 0] + 0.5  # between the two steps
        if len(onsets):
            distance = (torch.arange(len(phase))[:, None] - onsets).abs().amin(dim=1)
            weight = weight + self._config.onset_weight * torch.exp(-distance / self._config.onset_span)
        return weight


def _share_in_reentry(samples: Sequence[Sample]) -> float:
    return float(torch.cat([sample.phase for sample in samples]).double().mean())


def _padded(values: Tensor, steps: int) -> Tensor:
    """(T, ...) -> (steps, ...), as clients pad."""
    return torch.from_numpy(pad_steps(values.numpy()[None], steps)[0])
