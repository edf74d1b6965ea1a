"""What the benchmark measured, made into figures: medians and quartiles of the rounds, ratios within each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from registry.formats import Format

BASELINE = str(Format.ONNX)
"""What the others are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How far a format is from PyTorch, by its gate."""

    probability: float
    """Largest difference of any."""
    phase_share: float
    """Share of the validation tracks' steps whose phase is another."""
    onset_steps: int
    """Most steps by which an onset moved."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """One way to run the network, as it was measured; times in s, of single runs, by round."""

    whole_bytes: int | None = None
    """Of the graph over whole tracks; None where there is no file of it."""
    step_bytes: int | None = None
    accuracy: Accuracy | None = None
    """None for PyTorch, which the others are held against."""
    loads: list[float] = field(default_factory=list)
    step: list[list[float]] = field(default_factory=list)
    whole: list[list[float]] = field(default_factory=list)
    sweep: dict[int, float] = field(default_factory=dict)
    """Seconds of a run by its batch."""
    batches: list[list[float]] = field(default_factory=list)
    """Runs of the best batch."""
    base_bytes: int = 0
    """Memory of the process without the model."""
    one_bytes: int = 0
    """The most that it held with the model, a track at a time."""
    batch_bytes: dict[int, int] = field(default_factory=dict)
    """The same after runs of each batch, the smaller ones before."""

    @property
    def batch(self) -> int:
        """The one with the most tracks a second in the sweep."""
        return min(self.sweep, key=lambda batch: self.sweep[batch] / batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median of the rounds, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(median=float(median), low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """To the fp32 ONNX graphs of the same round. Below 1 is less: time, bytes, or tracks a second."""

    step: Spread
    whole: Spread
    throughput: Spread
    size: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatRow:
    """Figures of one way to run the network."""

    way: str
    whole_bytes: int | None
    step_bytes: int | None
    load: Spread
    """s."""
    step: Spread
    """s of one step of one track."""
    step_p99: float
    whole: Spread
    """s of all steps of one track."""
    whole_p99: float
    samples: tuple[int, int]
    """Runs that the percentiles of one step and of a whole track are of."""
    batch: int
    """The one that gave the most tracks a second."""
    tracks_per_second: Spread
    steps_per_second: Spread
    one_memory: int
    """Bytes beyond those of the process without the model, a track at a time."""
    batch_memory: int
    """The same with the best batch."""
    accuracy: Accuracy | None
    ratios: Ratios

    @property
    def size(self) -> int:
        """Bytes of both graphs; 0 where there are no files."""
        return (self.whole_bytes or 0) + (self.step_bytes or 0)


def rows_of(measured: Mapping[str, Measured], *, steps: int) -> list[FormatRow]:
    """Figures of each way, BASELINE among them; tracks have `steps` steps."""
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
    """Tracks a second with the best batch, by round."""
    return [own.batch / seconds for seconds in _medians(own.batches)]


def _ratio(own: Sequence[float], base: Sequence[float]) -> Spread:
    return Spread.of([mine / theirs for mine, theirs in zip(own, base, strict=True)])


def _size(own: Measured) -> int:
    return (own.whole_bytes or 0) + (own.step_bytes or 0)
