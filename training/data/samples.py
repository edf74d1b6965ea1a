"""Labelled tracks as samples: features and phases as tensors, their step counts, and the split by track.

Shapes: K tracks, T steps of a track, N steps of several tracks, F features, P chosen features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from reentry.errors import InputError
from reentry.features.groups import WITHOUT_COMPILER
from reentry.features.track import track_features
from reentry.schema import REENTRY_PHASE
from reentry.tracks import Track, read_tracks


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled track, ready for the network and for the baselines."""

    track: Track
    features: Tensor
    """(T, F) float32."""
    phase: Tensor
    """(T,) float32, 0 or 1."""


def read_labelled(path: Path, *, groups: frozenset[str] = WITHOUT_COMPILER) -> list[Sample]:
    """Read labelled tracks into memory; see `track_features` for `groups`.

    Raises:
        TrackFileError: the file cannot be used as a whole.
        InputError: the file has no good track, or no labels.
    """
    with read_tracks(path, labelled=True) as file:
        return samples_of(list(file), where=str(path), groups=groups)


def samples_of(tracks: Sequence[Track], *, where: str, groups: frozenset[str] = WITHOUT_COMPILER) -> list[Sample]:
    """Compute the features and labels of at least one track; `where` names their file in errors.

    Raises:
        InputError: there are no tracks, or a track has no labels.
    """
    samples = [sample_of(track, where=where, groups=groups) for track in tracks]
    if not samples:
        raise no_good_track(where)
    return samples


def sample_of(track: Track, *, where: str, groups: frozenset[str] = WITHOUT_COMPILER) -> Sample:
    """Compute the features and labels of one track.

    Raises:
        InputError: the track has no labels.
    """
    if track.reentry_phase is None:
        raise InputError(
            "no labels", where=where, expected=f"a column {REENTRY_PHASE.name}", fix="train on labelled tracks"
        )
    return Sample(
        track=track,
        features=torch.from_numpy(track_features(track.measurements, groups=groups)),
        phase=torch.from_numpy(track.reentry_phase.astype(np.float32)),
    )


def no_good_track(where: str) -> InputError:
    """Error for a file without a usable track."""
    return InputError("no good track", where=where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Step counts of K tracks."""

    steps: npt.NDArray[np.int64]
    """(K,), number of steps of each track."""
    reentry: npt.NDArray[np.int64]
    """(K,), number of steps of each track that are in the reentry phase."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Counts:
        """Counts that the samples carry; only a plain sequence, which is in memory, is counted."""
        if isinstance(samples, CountedSamples):
            return samples.counts
        counts = [(len(sample.phase), int(sample.phase.sum())) for sample in samples]
        steps, reentry = np.array(counts, dtype=np.int64).reshape(-1, 2).T
        return cls(steps=steps, reentry=reentry)

    @property
    def share_in_reentry(self) -> float:
        """Share of all steps that are in the reentry phase."""
        return float(self.reentry.sum() / self.steps.sum())

    def __getitem__(self, indices: Sequence[int]) -> Counts:
        chosen = np.asarray(indices, dtype=np.int64)
        return Counts(steps=self.steps[chosen], reentry=self.reentry[chosen])


class CountedSamples(Sequence[Sample], Dataset[Sample], ABC):
    """Samples that carry their step counts, so that nobody has to read them for that."""

    counts: Counts

    @abstractmethod
    def at(self, index: int) -> Sample:
        """Sample at an index between 0 and the length."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Chosen: ...

    def __getitem__(self, index: int | slice) -> Sample | Chosen:
        chosen = range(len(self))[index]
        return self.at(chosen) if isinstance(chosen, int) else Chosen(self, chosen, self.counts[chosen])


class Chosen(CountedSamples):
    """Subset of samples; each is read only when it is accessed.

    Args:
        samples: samples to choose from.
        indices: positions of the chosen samples in `samples`.
        counts: step counts of the chosen samples; None takes them from `samples`.
    """

    def __init__(self, samples: Sequence[Sample], indices: Sequence[int], counts: Counts | None = None) -> None:
        self.indices = indices
        self.counts = Counts.of(samples)[indices] if counts is None else counts
        self._samples = samples

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, index: int) -> Sample:
        """Read one sample."""
        return self._samples[self.indices[index]]


def split(samples: Sequence[Sample], share: float, seed: int) -> tuple[Chosen, Chosen]:
    """Split samples by track into a training and a validation split of at least one track each.

    Raises:
        InputError: there are fewer than two tracks, or all steps, or those of the training split, have the same phase.
    """
    if len(samples) < 2:
        raise InputError("too few labelled tracks", expected="at least 2, one for validation", got=str(len(samples)))
    counts = Counts.of(samples)
    if counts.share_in_reentry in (0.0, 1.0):
        raise InputError(
            f"every {REENTRY_PHASE.name} is the same",
            expected="both 0 and 1",
            got=f"only {counts.share_in_reentry:.0f}",
        )
    held_out = min(max(1, round(len(samples) * share)), len(samples) - 1)
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    validation, train = (
        Chosen(samples, indices, counts[indices]) for indices in (sorted(order[:held_out]), sorted(order[held_out:]))
    )
    if train.counts.share_in_reentry in (0.0, 1.0):
        raise InputError(
            f"the training split of seed {seed} has only one phase", fix="give more tracks, or another --seed"
        )
    return train, validation


def sampling_stride(samples: Sequence[Sample], steps: int) -> int:
    """Smallest k for which every k-th step of the samples is at most about `steps` steps."""
    return -(-int(Counts.of(samples).steps.sum()) // steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Steps of the training split from which the normalisation of the network's inputs is computed."""

    features: Tensor
    """(N, F), evenly spaced steps of all tracks."""
    before_onset: Tensor
    """(K, F), the step before the onset of each track that has an onset."""
    at_onset: Tensor
    """(K, F), the onset of each of these tracks."""

    @classmethod
    def of(cls, samples: Sequence[Sample], steps: int) -> Statistics:
        """Take every k-th step of each track, about `steps` in total, or all steps where there are fewer."""
        stride = sampling_stride(samples, steps)
        features, onsets = [], []
        for sample in samples:
            features.append(sample.features[::stride].clone())  # a view would keep the whole track in memory
            onset = int(sample.phase.argmax())
            if onset > 0:
                onsets.append(sample.features[onset - 1 : onset + 1].clone())
        pairs = torch.stack(onsets) if onsets else torch.empty(0, 2, features[0].shape[1])
        return cls(features=torch.cat(features), before_onset=pairs[:, 0], at_onset=pairs[:, 1])


def dividing_values(before: Tensor, at: Tensor) -> Tensor:
    """Value of each feature that best separates the onsets from the steps before them.

    Where one value lies between all onsets and all steps before them, it is the middle of all such values. Otherwise
    it is the mean over all these steps.

    Args:
        before: (K, P), features of the step before each of K >= 1 onsets.
        at: (K, P), the same features at the onsets.

    Returns:
        (P,), float64.
    """
    low, high = torch.minimum(before, at).double(), torch.maximum(before, at).double()  # a feature may rise or fall
    lowest, highest = low.amax(dim=0), high.amin(dim=0)
    return torch.where(lowest < highest, (lowest + highest) / 2, ((low + high) / 2).mean(dim=0))
