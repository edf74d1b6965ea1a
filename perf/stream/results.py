"""Results of a replay of live tracks. Latencies are in ms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from perf.generator import LATE
from perf.stream.agreement import Agreement
from perf.stream.config import StreamConfig
from perf.stream.monitor import MemorySample, growth
from perf.stream.replay import Record

STALL: Final = 500.0
"""Latency in ms above which a request counts as stalled."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)

_LATE_SHARE: Final = 0.01
"""Share of late requests from which the generator limits the figures."""
_BUSY: Final = 0.9
"""Share of a core from which the generator, which has one thread, limits the rate of a closed loop."""
_HELD: Final = 0.99
"""Share of the offered updates that must be answered within the duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one replay."""

    requests: int
    """Number of answered requests."""
    offered: float | None
    """Updates per second of the schedule; None for a closed loop. An update is one measurement of one track."""
    achieved: float
    """Updates per second that were answered within the duration."""
    latency: dict[str, float]
    """Percentiles and maximum of the latency; in an open loop it counts from the time at which a request was due."""
    late: float
    """Share of the requests that were sent more than `perf.generator.LATE` ms after they were due."""
    latest: float
    """Longest time from a due time to the sending, ms."""
    stalls: int
    """Number of requests that took longer than `STALL`."""
    behind: bool
    """Whether the replay ended early because the server did not keep up."""
    unaccepted: int
    """Number of measurements that the server did not accept."""
    errors: dict[str, int]
    """Number of refused requests, by reason."""

    @classmethod
    def of(cls, config: StreamConfig, record: Record) -> Figures:
        """Summarise the record of a replay."""
        latencies, lateness = (1e3 * np.array(times) for times in (record.latencies, record.lateness))
        latency: dict[str, float] = {}
        if len(latencies):
            values = [*np.percentile(latencies, PERCENTILES).tolist(), float(latencies.max())]
            latency = dict(zip((*(f"p{each:g}" for each in PERCENTILES), "max"), values, strict=True))
        return cls(
            requests=len(latencies),
            offered=None if config.rate is None else config.rate * config.tracks,
            achieved=record.updates / record.seconds,
            latency=latency,
            late=float(np.mean(lateness > LATE)) if len(lateness) else 0.0,
            latest=float(lateness.max(initial=0.0)),
            stalls=int(np.count_nonzero(latencies > STALL)),
            behind=record.behind,
            unaccepted=record.unaccepted,
            errors=dict(record.errors),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """Results of a replay, and everything that they depend on."""

    config: StreamConfig
    server: str
    """URL of the server, or `embedded`."""
    machine: dict[str, Any]
    versions: dict[str, str]
    git_revision: str
    figures: Figures
    agreement: Agreement
    client_cpu: float
    """Processor time of the generator, in cores."""
    server_cpu: float | None
    """Processor time of the server, in cores; None if it is not embedded."""
    memory: list[MemorySample]
    """Memory of the server over time; empty if it is not embedded."""

    @property
    def generator_limits(self) -> bool:
        """Whether the generator, not the server, limits the figures."""
        if self.config.rate is None:
            return self.client_cpu >= _BUSY
        return self.figures.late > _LATE_SHARE

    @property
    def held(self) -> bool:
        """Whether the rate was held: answered within the duration, with all answers right and no stall."""
        figures = self.figures
        offered = figures.offered or 0.0
        is_fast = figures.achieved >= _HELD * offered and not figures.behind and not figures.stalls
        return is_fast and not self.failed

    @property
    def failed(self) -> bool:
        """Whether an answer is wrong or missing."""
        figures = self.figures
        return bool(figures.unaccepted or figures.errors or not figures.requests) or self.agreement.failed

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON content."""
        content = asdict(self) | {"held": self.held, "generator_limits": self.generator_limits, "failed": self.failed}
        return content | {"memory_growth": growth(self.memory)}
