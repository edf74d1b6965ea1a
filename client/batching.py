"""Tracks -> requests: tracks of like length travel together, padded on the right to the longest of them.

The model reads no future, so padding changes no result; it only costs time, which is why it is bounded here.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.padding import pad_steps
from reentry.runtime.arguments import require_between
from reentry.tracks import Track

FREE_PADDING: Final = 16
"""Steps of padding that cost too little to split a batch of short tracks for."""

_MOST_TRACKS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How tracks are grouped into requests."""

    tracks: int = 16
    """Most tracks in one request. More cost the network its cache, fewer cost the way to it: see `perf.scoring`."""
    steps: int = 65_536
    """Most steps in one request, padding included, unless a single track is longer: 3 MiB of measurements."""
    padding: float = 0.1
    """Most padding of one track, as a fraction of the longest track it travels with."""
    window: int = 1_000_000
    """Steps that are held in memory and sorted by length before they are cut into requests."""

    def __post_init__(self) -> None:
        require_between("tracks in one request", self.tracks, 1, _MOST_TRACKS)
        if self.steps < 1 or self.window < 1:
            raise ConfigError("steps", expected="at least 1", got=f"steps {self.steps}, window {self.window}")
        if not 0.0 <= self.padding <= 1.0:
            raise ConfigError("padding", expected="a fraction from 0 to 1", got=str(self.padding))


@dataclass(frozen=True, slots=True)
class RequestBatch:
    """The tracks of one request."""

    tracks: tuple[Track, ...]

    def __len__(self) -> int:
        return len(self.tracks)

    @property
    def longest(self) -> int:
        """T of the request."""
        return max(len(track) for track in self.tracks)

    def measurements(self) -> npt.NDArray[np.float64]:
        """(B, T, M); a shorter track repeats its last row."""
        return np.concatenate([pad_steps(track.measurements[None], self.longest) for track in self.tracks])

    def lengths(self) -> npt.NDArray[np.int32]:
        """(B, 1), steps of each track before its padding."""
        return np.array([[len(track)] for track in self.tracks], dtype=np.int32)

    def track_ids(self) -> npt.NDArray[np.int64]:
        """(B, 1)."""
        return np.array([[track.track_id] for track in self.tracks], dtype=np.int64)

    def singles(self) -> list[RequestBatch]:
        """The same tracks, one to a request."""
        return [RequestBatch((track,)) for track in self.tracks]


def batches(tracks: Iterable[Track], config: BatchConfig | None = None) -> Iterator[RequestBatch]:
    """Group tracks into requests, a bounded window of them at a time; every track is in exactly one."""
    config = config or BatchConfig()
    window: list[Track] = []
    steps = 0
    for track in tracks:
        window.append(track)
        steps += len(track)
        if steps >= config.window:
            yield from _cut(window, config)
            window, steps = [], 0
    yield from _cut(window, config)


def _cut(window: Sequence[Track], config: BatchConfig) -> Iterator[RequestBatch]:
    """Sort by length, longest first, and start a new request where the next track would not fit the open one."""
    open_batch: list[Track] = []
    for track in sorted(window, key=len, reverse=True):
        if open_batch:
            longest = len(open_batch[0])
            full = len(open_batch) == config.tracks or (len(open_batch) + 1) * longest > config.steps
            if full or longest - len(track) > max(config.padding * longest, FREE_PADDING):
                yield RequestBatch(tuple(open_batch))
                open_batch = []
        open_batch.append(track)
    if open_batch:
        yield RequestBatch(tuple(open_batch))
