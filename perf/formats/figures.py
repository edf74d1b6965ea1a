"""Figures of the benchmark: medians and quartiles over the rounds, and ratios within each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from registry.formats import Format

BASELINE = str(Format.ONNX)
"""Format that all others are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Differences of a format from PyTorch, measured by its gate."""

    probability: float
    """Largest difference in probability."""
    phase_share: float
    """Share of the validation steps whose phase differs."""
    onset_steps: int
    """Largest shift of an onset, in steps."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """Raw measurements of one format. Times are of single runs in s, grouped by round."""

    whole_bytes: int | None = None
    """Size of the graph over whole tracks, bytes; None if the format has no file."""
    step_bytes: int | None = None
    accuracy: Accuracy | None = None
    """None for PyTorch, which is the reference."""
    loads: list[float] = field(default_factory=list)
    step: list[list[float]] = field(default_factory=list)
    whole: list[list[float]] = field(default_factory=list)
    sweep: dict[int, float] = field(default_factory=dict)
    """Fastest median time of a run, s, by batch size."""
    batches: list[list[float]] = field(default_factory=list)
    """Times of runs with the best batch size."""
    base_bytes: int = 0
    """Peak memory of the process without the model, bytes."""
    one_bytes: int = 0
    """Peak memory with the model, one track at a time, bytes."""
    batch_bytes: dict[int, int] = field(default_factory=dict)
    """Peak memory after the runs of each batch size, smaller ones first, bytes."""

    @property
    def batch(self) -> int:
        """Return the batch size with the most tracks per second in the sweep."""
        return min(self.sweep, key=lambda batch: self.sweep[batch] / batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Compute the spread of at least one value."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(median=float(median), low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """Time, size and tracks per second of a format, divided by those of the baseline in the same round."""

    step: Spread
    whole: Spread
    throughput: Spread
    size: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatRow:
    """Figures of one format or reference."""

    way: str
    whole_bytes: int | None
    step_bytes: int | None
    load: Spread
    """Time to load the model, s."""
    step: Spread
    """Time of one step of one track, s."""
    step_p99: float
    whole: Spread
    """Time of all steps of one track, s."""
    whole_p99: float
    samples: tuple[int, int]
    """Number of runs behind the percentiles of one step and of a whole track."""
    batch: int
    """Batch size with the most tracks per second."""
    tracks_per_second: Spread
    steps_per_second: Spread
    one_memory: int
    """Peak memory beyond the process without the model, one track at a time, bytes."""
    batch_memory: int
    """Peak memory beyond the process without the model, with the best batch size, bytes."""
    accuracy: Accuracy | None
    ratios: Ratios

    @property
    def size(self) -> int:
        """Return the size of both graphs, bytes; 0 if there are no files."""
        return (self.whole_bytes or 0) + (self.step_bytes or 0)


def rows_of(measured: Mapping[str, Measured], *, steps: int) -> list[FormatRow]:
    """Compute the figures of each format; BASELINE must be among them. `steps` is the number of steps in a track."""
    return [_row(way, own, measured[BASELINE], steps) for way, own in measured.items()]


def _row(way: str, own: Measured, base: Measured, steps: int) -> FormatRow:
    rates = _rates(own)
    return FormatRow(
        way=way,
        whole_bytes=own.whole_bytes,
        step_bytes=own.step_bytes,
        load=Spread.of(own.loads),
        step=Spread.of(_medians(own.step)),
        step_p99=_p99(own.step),
        whole=Spread.of(_medians(own.whole)),
        whole_p99=_p99(own.whole),
        samples=(sum(map(len, own.step)), sum(map(len, own.whole))),
        batch=own.batch,
        tracks_per_second=Spread.of(rates),
        steps_per_second=Spread.of([rate * steps for rate in rates]),
        one_memory=own.one_bytes - own.base_bytes,
        batch_memory=own.batch_bytes[own.batch] - own.base_bytes,
        accuracy=own.accuracy,
        ratios=Ratios(
            step=_ratio(_medians(own.step), _medians(base.step)),
            whole=_ratio(_medians(own.whole), _medians(base.whole)),
            throughput=_ratio(rates, _rates(base)),
            size=_size(own) / _size(base) if own.whole_bytes is not None else None,
        ),
    )


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.median(samples)) for samples in rounds]


def _p99(rounds: Sequence[Sequence[float]]) -> float:
    return float(np.percentile(np.concatenate(rounds), 99))


def _rates(own: Measured) -> list[float]:
    """Return the tracks per second with the best batch size, by round."""
    return [own.batch / seconds for seconds in _medians(own.batches)]


def _ratio(own: Sequence[float], base: Sequence[float]) -> Spread:
    return Spread.of([mine / theirs for mine, theirs in zip(own, base, strict=True)])


def _size(own: Measured) -> int:
    return (own.whole_bytes or 0) + (own.step_bytes or 0)
