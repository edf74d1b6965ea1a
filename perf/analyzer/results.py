"""Results of a measurement: figures of each workload. All times are in ms."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Final

from perf.analyzer.config import PerfConfig, Workload

PERCENTILES: Final = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """Mean times of a request in the server."""

    queue: float
    compute_input: float
    """Copying of the inputs to the model."""
    compute_infer: float
    """Running of the model."""
    compute_output: float
    """Copying of the outputs from the model."""

    @property
    def total(self) -> float:
        """Sum of the four times."""
        return self.queue + self.compute_input + self.compute_infer + self.compute_output


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one workload over three measurement windows."""

    requests: int
    """Number of requests that were answered within the windows."""
    tracks_per_second: float
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    client_send: float
    """Mean time in which the client writes a request."""
    client_receive: float
    """Mean time in which the client reads an answer."""
    server: ServerTimes
    """Times in the model; in an ensemble the sums of those of its members."""
    members: dict[str, ServerTimes]
    """Times in each member of an ensemble; empty for other models."""
    late: float
    """Percentage of the requests of a rate that were sent later than planned, 0 if there were almost none."""

    @property
    def other(self) -> float:
        """Rest of the mean latency: network, server without models, and steps of an ensemble."""
        return max(0.0, self.mean - self.client_send - self.client_receive - self.server.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadResult:
    """Result of one workload."""

    workload: Workload
    stable: bool
    """Whether three successive windows agreed within the configured percentage."""
    figures: Figures | None
    """None if a request failed or none was answered within a measurement window."""
    failure: str | None = None
    """Reason why there are no figures; None if there are."""
    recorded: int = 0
    """Number of requests that were recorded one by one."""
    stalls: int = 0
    """Number of recorded requests that took longer than `perf.analyzer.output.STALL`."""

    @property
    def status(self) -> str:
        """Whether the figures can be relied on: `stable`, `unstable`, `late` (the client missed the rate), `failed`."""
        if self.figures is None:
            return "failed"
        if not self.stable:
            return "unstable"
        return "late" if self.figures.late else "stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Highest:
    """Highest level of a scenario that holds the objective. The other fields are those of its workloads."""

    model: str
    protocol: str
    batch: int
    length: str
    load: str
    level: float | None
    """None if the lowest level does not hold it."""
    at_limit: bool
    """Whether the level is the highest of the configuration, so that a higher one may hold too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingRate:
    """Throughput of ONNX Runtime in process, of one graph with one batch, length and arrangement of threads."""

    graph: str
    """Name of the file of the graph: `track.onnx` takes measurements of whole tracks, `step.onnx` one step."""
    batch: int
    """Number of tracks in one run."""
    length: str | None
    """Length of the tracks as in a workload; None for one step at a time."""
    workers: int
    """Number of runs at once, each in a thread of its own that shares the session."""
    threads: int
    """Number of threads of ONNX Runtime within one run."""
    windows: tuple[float, ...]
    """Tracks per second in each window; for one step at a time, steps per second."""

    @property
    def median(self) -> float:
        """Median of the windows."""
        return statistics.median(self.windows)

    def stable(self, percentage: float) -> bool:
        """Return whether each window differs from their mean by at most a percentage."""
        mean = statistics.fmean(self.windows)
        return all(abs(window - mean) <= mean * percentage / 100.0 for window in self.windows)

    @property
    def arrangement(self) -> str:
        """Arrangement of the threads in words."""
        runs, threads = ("s" if count > 1 else "" for count in (self.workers, self.threads))
        return f"{self.workers} run{runs} at once, {self.threads} thread{threads} each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Throughput of ONNX Runtime in this process, without a server, for the tracks of the workloads."""

    version: int | None = None
    """Version of the network; None if it is unknown."""
    missing: dict[str, str] = field(default_factory=dict)
    """Reason why a graph was not measured, by the name of its file."""
    remote: bool = False
    """Whether the server was given by its address, so that it may run on another machine."""
    rates: tuple[CeilingRate, ...] = ()

    def best(self, graph: str, batch: int, length: str | None) -> CeilingRate | None:
        """Return the rate of the best arrangement, or None if no arrangement was measured."""
        rates = [each for each in self.rates if (each.graph, each.batch, each.length) == (graph, batch, length)]
        return max(rates, key=lambda each: each.median, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Everything that the results of a measurement depend on."""

    config: PerfConfig
    urls: tuple[str, ...] = ()
    """Addresses of the measured server; empty for an embedded one."""
    objective: str | None
    machine: dict[str, Any]
    """Processor, number of cores and memory of the machine with the client, in GiB."""
    versions: dict[str, str]
    """Versions of the programs, by name."""
    git_revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Origin):
    """Results of a measurement."""

    results: list[WorkloadResult]
    highest: list[Highest]
    """Result of the search; empty without an objective."""
    ceiling: Ceiling

    @property
    def failed(self) -> bool:
        """Whether a workload has no figures or, with an objective, no level of a scenario holds it."""
        if self.objective is not None:
            return any(each.level is None for each in self.highest)
        return any(result.figures is None for result in self.results)
