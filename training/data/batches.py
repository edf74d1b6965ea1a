"""Batches of tracks: which tracks share one, how they are padded, and the weight of each step in the loss.

Shapes: K tracks, B tracks of a batch, T steps, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler

from reentry.padding import pad_steps
from training.config import TrainConfig
from training.data.samples import Counts, Sample

POOL_BATCHES: Final = 50
"""Number of batches in a pool of tracks sorted by length: enough for similar lengths, few enough to stay random."""


class Batches(Sampler[list[int]]):
    """Batches of track indices, drawn again in each epoch: in random order, of similar length to reduce padding.

    Args:
        lengths: number of steps of each track, (K,).
        size: number of tracks in a batch, summed over all processes.
        generator: random generator for the order; None keeps the order of the tracks.
        by_length: whether a batch holds tracks of similar length.
        rank: rank of this process, which gets its share of every batch.
        ranks: number of processes that share a batch; at most `size`, and at most K.
    """

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        size: int,
        *,
        generator: torch.Generator | None = None,
        by_length: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        assert ranks <= min(size, len(lengths)), "every process has a track of every batch"
        self._lengths = lengths
        self._generator = generator
        self._by_length = by_length
        self._rank = rank
        self._ranks = ranks
        self._starts = list(range(0, len(lengths), size))
        if len(lengths) - self._starts[-1] < ranks:  # a last batch too small to share joins the one before
            self._starts.pop()
        self._pool = POOL_BATCHES * size

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._permutation(len(self._lengths))
        if self._by_length:
            # Without a generator the order need not be random, so a single pool holds all tracks.
            pool = self._pool if self._generator else len(order)
            for start in range(0, len(order), pool):
                indices = order[start : start + pool]
                order[start : start + pool] = indices[np.argsort(self._lengths[indices], kind="stable")]
        batches = np.split(order, self._starts[1:])
        for index in self._permutation(len(batches)) if self._by_length else range(len(batches)):
            yield batches[index][self._rank :: self._ranks].tolist()

    def _permutation(self, count: int) -> npt.NDArray[np.int64]:
        if self._generator is None:
            return np.arange(count)
        drawn: npt.NDArray[np.int64] = torch.randperm(count, generator=self._generator).numpy()
        return drawn


class Batch(NamedTuple):
    """B tracks of one training step, padded on the right to the T steps of the longest."""

    features: Tensor
    """(B, T, F). Padding repeats the last row, which does not affect earlier outputs of a causal network."""
    phase: Tensor
    """(B, T)."""
    weight: Tensor
    """(B, T), weight of each step in the loss; 0 in the padding."""


class Collate:
    """Callable that pads samples to a `Batch`.

    Args:
        config: settings of the training.
        train: samples of the training split, for the class weights.
    """

    def __init__(self, config: TrainConfig, train: Sequence[Sample]) -> None:
        share = Counts.of(train).share_in_reentry
        # Both phases get the same total weight, and a step weighs 1 on average.
        self._phase_weight = torch.tensor([0.5 / (1.0 - share), 0.5 / share] if config.class_weighting else [1.0, 1.0])
        self._config = config

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Pad samples to the length of the longest."""
        longest = max(len(sample.phase) for sample in samples)
        features = torch.stack([_padded(sample.features, longest) for sample in samples])
        phase = torch.stack([_padded(sample.phase, longest) for sample in samples])
        weight = torch.zeros_like(phase)
        for row, sample in enumerate(samples):
            weight[row, : len(sample.phase)] = self._weight(sample.phase)
        return Batch(features, phase, weight)

    def _weight(self, phase: Tensor) -> Tensor:
        """Weight of each step, (T,); symmetric around an onset, so that it does not shift the boundary."""
        weight = self._phase_weight[phase.long()]
        onsets = torch.nonzero(phase[1:] > phase[:-1])[:, 0] + 0.5  # between the two steps
        if len(onsets):
            distance = (torch.arange(len(phase))[:, None] - onsets).abs().amin(dim=1)
            weight = weight + self._config.onset_weight * torch.exp(-distance / self._config.onset_span)
        return weight


def _padded(values: Tensor, steps: int) -> Tensor:
    """Pad (T, ...) to (steps, ...) in the same way as clients do."""
    return torch.from_numpy(pad_steps(values.numpy()[None], steps)[0])
