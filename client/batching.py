"""Groups tracks into requests: tracks of similar length share a request, padded on the right to the longest of them.

The model is causal, so padding on the right changes no result. It only costs time, which is why it is bounded here.

Shapes: B tracks, T steps, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reentry.errors import ConfigError
from reentry.runtime.arguments import require_between
from reentry.schema import ENSEMBLE, Model
from reentry.tracks import Track

FREE_PADDING: Final = 16
"""Number of padding steps that are always allowed: they cost less than a separate request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Limits for grouping tracks into requests."""

    tracks: int = 16
    """Largest number of tracks in one request. `perf.scoring` measures the throughput of other values."""
    steps: int = 65_536
    """Largest number of steps in one request, padding included (3 MiB of measurements). A longer track goes alone."""
    padding: float = 0.1
    """Largest padding of one track, as a fraction of the longest track in its request."""
    window: int = 1_000_000
    """Number of steps that are held in memory and sorted by length before they are grouped."""

    def __post_init__(self) -> None:
        require_between("tracks in one request", self.tracks, 1, 1_000_000)
        if self.steps < 1 or self.window < 1:
            raise ConfigError(
                "steps out of range", expected="at least 1", got=f"steps {self.steps}, window {self.window}"
            )
        if not 0.0 <= self.padding <= 1.0:
            raise ConfigError("padding out of range", expected="a fraction from 0 to 1", got=str(self.padding))


@dataclass(frozen=True, slots=True)
class RequestBatch:
    """Tracks that are sent in one request."""

    tracks: tuple[Track, ...]
    model: Model = ENSEMBLE
    """Model that scores the tracks."""

    def __len__(self) -> int:
        return len(self.tracks)

    @property
    def longest(self) -> int:
        """Number of steps T of the longest track, to which the others are padded."""
        return max(len(track) for track in self.tracks)

    def measurements(self) -> npt.NDArray[np.float64]:
        """Measurements, (B, T, M); a shorter track is padded with its last row."""
        longest = self.longest
        joined = np.empty((len(self.tracks), longest, self.tracks[0].measurements.shape[1]))
        for track, rows in zip(self.tracks, joined, strict=True):
            rows[: len(track)] = track.measurements
            if len(track) < longest:
                rows[len(track) :] = track.measurements[-1]
        return joined

    def lengths(self) -> npt.NDArray[np.int32]:
        """Number of steps of each track before padding, (B, 1)."""
        return np.array([[len(track)] for track in self.tracks], dtype=np.int32)

    def track_ids(self) -> npt.NDArray[np.int64]:
        """Track ids, (B, 1)."""
        return np.array([[track.track_id] for track in self.tracks], dtype=np.int64)

    def singles(self) -> list[RequestBatch]:
        """The same tracks, each in a request of its own to `reentry`."""
        return [RequestBatch((track,)) for track in self.tracks]


def batches(tracks: Iterable[Track], config: BatchConfig | None = None) -> Iterator[RequestBatch]:
    """Group tracks into requests, a bounded window of tracks at a time. Each track is in exactly one request."""
    config = config or BatchConfig()
    window: list[Track] = []
    steps = 0
    for track in tracks:
        window.append(track)
        steps += len(track)
        if steps >= config.window:
            yield from _group(window, config)
            window, steps = [], 0
    yield from _group(window, config)


def _group(window: Sequence[Track], config: BatchConfig) -> Iterator[RequestBatch]:
    """Sort tracks by length, longest first, and start a new request where the next track exceeds a limit."""
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
