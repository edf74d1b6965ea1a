"""Results of `reentry perf run` that were not measured, for tests of what is done with results."""

from __future__ import annotations

from typing import Any

from perf.analyzer.config import PerfConfig, Workload
from perf.analyzer.results import Ceiling, CeilingRate, Figures, Highest, Report, ServerTimes, WorkloadResult


def make_result(
    *, level: float = 4, p99: float = 8.0, tracks_per_second: float = 1000.0, **changed: Any
) -> WorkloadResult:
    """A stable result at a level of concurrency; `changed` are fields of the result."""
    figures = Figures(
        requests=500,
        tracks_per_second=tracks_per_second,
        p50=p99 / 4,
        p90=p99 / 3,
        p95=p99 / 2,
        p99=p99,
        mean=p99 / 3,
        client_send=0.01,
        client_receive=0.02,
        server=ServerTimes(queue=0.1, compute_input=0.2, compute_infer=1.0, compute_output=0.3),
        members={"reentry_lstm": ServerTimes(queue=0.1, compute_input=0.2, compute_infer=1.0, compute_output=0.3)},
        late=0.0,
    )
    workload = Workload(model="reentry", protocol="grpc", batch=1, length="900", load="concurrency", level=level)
    fields: dict[str, Any] = {"workload": workload, "stable": True, "figures": figures, "recorded": 100, "stalls": 2}
    return WorkloadResult(**fields | changed)


def make_rate(rate: float = 2000.0, **changed: Any) -> CeilingRate:
    """A rate of one track at a time in one thread; `changed` are fields of the rate."""
    fields: dict[str, Any] = {"graph": "track.onnx", "batch": 1, "length": "900", "workers": 1, "threads": 1}
    return CeilingRate(**fields | {"windows": (0.95 * rate, 1.1 * rate, rate)} | changed)


def make_report(*results: WorkloadResult, highest: tuple[Highest, ...] = (), **changed: Any) -> Report:
    """A report of an embedded server; `changed` are fields of the report."""
    fields: dict[str, Any] = {
        "config": PerfConfig(concurrency=(1, 4)),
        "urls": (),
        "objective": None,
        "machine": {"processor": "a processor", "cores": 2, "memory_gib": 24},
        "versions": {"reentry": "0.1.0", "server": "2.51.0", "perf_analyzer": "2.51.0", "onnxruntime": "1.31.1"},
        "git_revision": "abcd",
        "ceiling": Ceiling(version=3, rates=(make_rate(),)),
    }
    return Report(results=list(results), highest=list(highest), **fields | changed)
