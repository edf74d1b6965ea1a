"""Labelled tracks as tensors: read, split by track, padded into batches with the weight of every step.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reentry.errors import InputError
from reentry.features.track import track_features
from reentry.padding import pad_steps
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

    samples: Sequence[Sample]
    """In memory, or read when asked for."""
    report: ReadReport
    """What was repaired in the file and set aside from it."""


def read_labelled(path: Path, *, robust: bool = True) -> LabelledFile:
    """Read labelled tracks into memory.

    Args:
        path: the file.
        robust: whether the robust features are wanted, see `track_features`.

    Raises:
        TrackFileError: the file cannot be used as a whole.
        InputError: its good tracks are none or have no labels.
    """
    with read_tracks(path, labelled=True) as file:
        return LabelledFile(samples=samples_of(list(file), where=str(path), robust=robust), report=file.report)


def samples_of(tracks: Sequence[Track], *, where: str, robust: bool = True) -> list[Sample]:
    """Features and labels of tracks.

    Args:
        tracks: at least one, all with labels.
        where: named in errors, the file.
        robust: whether the robust features are wanted, see `track_features`.

    Raises:
        InputError: no tracks, or no labels.
    """
    samples = [sample_of(track, where=where, robust=robust) for track in tracks]
    if not samples:
        raise no_good_track(where)
    return samples


def sample_of(track: Track, *, where: str, robust: bool = True) -> Sample:
    """Features and labels of a track.

    Raises:
        InputError: no labels; `where` names the file.
    """
    if track.reentry_phase is None:
        raise InputError(
            "no labels", where=where, expected=f"a column {REENTRY_PHASE.name}", fix="train on labelled tracks"
        )
    return Sample(
        track=track,
        features=torch.from_numpy(track_features(track.measurements, robust=robust)),
        phase=torch.from_numpy(track.reentry_phase.astype(np.float32)),
    )


def no_good_track(where: str) -> InputError:
    """The error of a file without one."""
    return InputError("no good track", where=where)


class Chosen(Sequence[Sample]):
    """Some of the samples, in the order of their indices; none is read before it is asked for."""

    def __init__(self, samples: Sequence[Sample], indices: Sequence[int]) -> None:
        self._samples = samples
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Chosen: ...

    def __getitem__(self, index: int | slice) -> Sample | Chosen:
        if isinstance(index, slice):
            return Chosen(self._samples, self._indices[index])
        return self._samples[self._indices[index]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of each of K tracks."""

    steps: npt.NDArray[np.int64]
    """(K,)."""
    reentry: npt.NDArray[np.int64]
    """(K,), steps in reentry."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Counts:
        """Count; reads every sample once."""
        counts = [(len(sample.phase), int(sample.phase.sum())) for sample in samples]
        steps, reentry = np.array(counts, dtype=np.int64).reshape(-1, 2).T
        return cls(steps=steps, reentry=reentry)

    @property
    def share_in_reentry(self) -> float:
        """Of all steps."""
        return float(self.reentry.sum() / self.steps.sum())

    def __getitem__(self, indices: Sequence[int]) -> Counts:
        return Counts(steps=self.steps[indices], reentry=self.reentry[indices])


def split(samples: Sequence[Sample], share: float, seed: int) -> tuple[Chosen, Chosen]:
    """Training and validation split, by whole tracks; at least one track each.

    Raises:
        InputError: fewer than two tracks, or only one phase in all of them or in the training split.
    """
    if len(samples) < 2:
        raise InputError("too few labelled tracks", expected="2 at least, one to validate with", got=str(len(samples)))
    counts = Counts.of(samples)
    if counts.share_in_reentry in (0.0, 1.0):
        raise InputError(
            f"every {REENTRY_PHASE.name} is the same",
            expected="both 0 and 1",
            got=f"only {counts.share_in_reentry:.0f}",
        )
    held = min(max(1, round(len(samples) * share)), len(samples) - 1)
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = sorted(order[:held].tolist())
    train = sorted(order[held:].tolist())
    if counts[train].share_in_reentry in (0.0, 1.0):
        raise InputError(
            f"the training split of seed {seed} holds only one phase", fix="give more tracks, or another --seed"
        )
    return Chosen(samples, train), Chosen(samples, chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Steps of the training split that the scaling of the network's inputs is taken from."""

    features: Tensor
    """(N, F), steps of all tracks, evenly spaced."""
    before_onset: Tensor
    """(K, F), the step before the onset of each track that has one."""
    at_onset: Tensor
    """(K, F), the onset of each of these tracks."""

    @classmethod
    def of(cls, samples: Sequence[Sample], steps: int) -> Statistics:
        """Take about `steps` steps: every k-th of each track, all where they are no more."""
        every = -(-int(Counts.of(samples).steps.sum()) // steps)
        parts, onsets = [], []
        for sample in samples:
            parts.append(sample.features[::every].clone())  # a view would keep all steps of the track
            onset = int(sample.phase.argmax())
            if onset > 0:
                onsets.append(sample.features[onset - 1 : onset + 1].clone())
        pairs = torch.stack(onsets) if onsets else torch.empty(0, 2, parts[0].shape[1])
        return cls(features=torch.cat(parts), before_onset=pairs[:, 0], at_onset=pairs[:, 1])


def dividing_values(before: Tensor, at: Tensor) -> Tensor:
    """The value of each feature that divides onsets best from the steps before them.

    Where some value lies between all onsets and all steps before them, it is the middle of all such values. Elsewhere
    it is the mean of these steps.

    Args:
        before: (K, P), features of the step before each of K >= 1 onsets.
        at: (K, P), the same features of the onsets.

    Returns:
        (P,), float64.
    """
    low, high = torch.minimum(before, at).double(), torch.maximum(before, at).double()  # a feature may rise or fall
    lowest, highest = low.amax(dim=0), high.amin(dim=0)
    return torch.where(lowest < highest, (lowest + highest) / 2, ((low + high) / 2).mean(dim=0))


class Collate:
    """Samples -> Batch."""

    def __init__(self, config: TrainConfig, train: Sequence[Sample]) -> None:
        share = Counts.of(train).share_in_reentry
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


def _padded(values: Tensor, steps: int) -> Tensor:
    """(T, ...) -> (steps, ...), as clients pad."""
    return torch.from_numpy(pad_steps(values.numpy()[None], steps)[0])
