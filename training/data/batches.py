"""Which tracks share a batch: in a random order, and of like length where there are many, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

POOL_BATCHES: Final = 50
"""Batches made of one pool of tracks sorted by length: enough for like lengths, few enough to stay random."""


class Batches(Sampler[list[int]]):
    """Batches of indices of tracks, drawn anew in each epoch.

    Args:
        lengths: steps of each track, (K,).
        size: tracks of a batch, of all processes together.
        generator: draws the order; None keeps that of the tracks.
        by_length: whether a batch holds tracks of like length.
        rank: of this process, which gets its share of every batch.
        ranks: processes that share a batch; at most `size`, and at most K.
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
            # Without a generator nothing has to be random, and the pool is all.
            pool = self._pool if self._generator else len(order)
            for start in range(0, len(order), pool):
                part = order[start : start + pool]
                order[start : start + pool] = part[np.argsort(self._lengths[part], kind="stable")]
        batches = np.split(order, self._starts[1:])
        turn = self._permutation(len(batches)) if self._by_length else range(len(batches))
        for index in turn:
            yield batches[index][self._rank :: self._ranks].tolist()

    def _permutation(self, count: int) -> npt.NDArray[np.int64]:
        if self._generator is None:
            return np.arange(count)
        drawn: npt.NDArray[np.int64] = torch.randperm(count, generator=self._generator).numpy()
        return drawn


def padding(lengths: npt.NDArray[np.int64], batches: Sequence[Sequence[int]]) -> float:
    """Share of the steps of batches that are padding, each batch padded to its longest track."""
    padded = sum(len(batch) * int(lengths[list(batch)].max()) for batch in batches)
    return 1.0 - sum(int(lengths[list(batch)].sum()) for batch in batches) / padded
