"""Measurement of the ceiling: ONNX Runtime scores the tracks of the sweep in this process, without a server.

Python releases its lock while ONNX Runtime runs, so threads of this process share one session. Every thread arrangement
that can be the best one is measured: 1 to all cores as runs at once of one thread each, and as threads of one run.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perf.analyzer.config import PerfConfig
from perf.analyzer.inputs import requests_of
from perf.analyzer.production import STEP_GRAPH, TRACK_GRAPH, Production
from perf.analyzer.results import Ceiling, CeilingRate
from reentry.errors import RepositoryError
from reentry.features.track import track_features
from reentry.runtime.cores import cores
from registry.formats import FORMATS, Format

if TYPE_CHECKING:
    from export.sessions import Array

STEP_BATCHES: Final = (1, 64)
"""Numbers of live tracks that advance by one step in one run of the step graph."""
WINDOWS: Final = 3
"""Number of windows of each rate, as many as the figures of a workload cover."""

_STEPS: Final = "100"
"""Length of the live tracks; the time of a step does not depend on it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """Runs of one graph with one batch and length."""

    graph: str
    batch: int
    length: str | None
    open: Callable[[int, int], list[Iterator[object]]]
    """Function that loads the graph for a number of workers and of threads within a run, and returns the workers'
    runs."""


class CeilingMeasurement:
    """Measures the ceiling one window of each rate at a time, so that other load on the machine affects all rates."""

    def __init__(self, config: PerfConfig, production: Production) -> None:
        self._window = config.window
        self._production = production
        self._works = [*_track_works(config, production), *_step_works(config, production)]
        self._windows: dict[tuple[_Work, int, int], list[float]] = {}

    def measure(self) -> None:
        """Measure one window of each rate.

        Raises:
            RepositoryError: a graph does not run.
        """
        if self._works:
            _log.info(
                f"measuring the ceiling in process: {', '.join(dict.fromkeys(each.graph for each in self._works))}"
            )
        for work in self._works:
            for workers, threads in arrangements(cores()):
                try:
                    rate = work.batch * runs_per_second(work.open(workers, threads), self._window)
                except Exception as error:  # the exceptions of onnxruntime have no common base class
                    raise RepositoryError(
                        f"the graph does not run in this process: {error}",
                        where=str(self._production.folder / work.graph),
                        fix="export the checkpoint again, or set `ceiling = false` in the table [perf] of --config",
                    ) from error
                self._windows.setdefault((work, workers, threads), []).append(rate)

    def ceiling(self, *, remote: bool) -> Ceiling:
        """Return the rates; `remote` tells whether the server may run on another machine."""
        rates = tuple(
            CeilingRate(
                graph=work.graph,
                batch=work.batch,
                length=work.length,
                workers=workers,
                threads=threads,
                windows=tuple(windows),
            )
            for (work, workers, threads), windows in self._windows.items()
        )
        production = self._production
        return Ceiling(version=production.version, missing=dict(production.missing), remote=remote, rates=rates)


def arrangements(count: int) -> list[tuple[int, int]]:
    """Return the thread arrangements for a number of cores: runs at once, and threads of each run."""
    return [(number, 1) for number in range(1, count + 1)] + [(1, number) for number in range(2, count + 1)]


def track_runs(graph: Path, requests: Sequence[tuple[Array, Array]], workers: int, threads: int) -> list[Iterator[Any]]:
    """Load the graph from measurements to onsets, and return the runs of each worker.

    Each `next` scores a request and returns the outputs by name. Worker n starts with request n; requests repeat.
    """
    from export.sessions import TrackSession  # ONNX Runtime is not needed to measure a server elsewhere

    session = TrackSession(graph, threads=threads)
    starts = [worker % len(requests) for worker in range(workers)]
    return [(session.run(*request) for request in cycle([*requests[start:], *requests[:start]])) for start in starts]


def step_runs(folder: Path, features: Array, state: tuple[int, int], workers: int, threads: int) -> list[Iterator[Any]]:
    """Load the graph of one step, and return the runs of each worker, which keeps the state of its own tracks.

    Each `next` returns the probability (B, 1) of the next step.

    Args:
        folder: folder of the version.
        features: features (B, T, F) of the tracks.
        state: number of layers and of hidden units.
        workers: number of workers.
        threads: number of threads within one run.
    """
    from export.sessions import OnnxSession, live_steps, no_state

    spec = FORMATS[Format.ONNX]
    session = OnnxSession(folder / spec.whole_file, folder / spec.step_file, threads=threads)
    rows = [np.ascontiguousarray(row) for row in features.swapaxes(0, 1)]
    return [live_steps(session, rows, no_state(len(features), *state)) for _ in range(workers)]


def runs_per_second(workers: Sequence[Iterator[object]], seconds: float) -> float:
    """Run all workers at once for about `seconds`, and return the number of runs per second of all together."""
    stop = threading.Event()

    def repeat(runs: Iterator[object]) -> float:
        next(runs)  # the first run allocates memory
        count, begun = 0, time.perf_counter()
        while not count or not stop.is_set():
            next(runs)
            count += 1
        return count / (time.perf_counter() - begun)

    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            rates = [pool.submit(repeat, runs) for runs in workers]
            wait(rates, timeout=seconds, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    return sum(rate.result() for rate in rates)


def _track_works(config: PerfConfig, production: Production) -> Iterator[_Work]:
    if TRACK_GRAPH not in production.missing:
        for length in config.lengths:
            for batch in config.batches:
                requests = requests_of(batch=batch, length=length, seed=config.seed)
                yield _Work(TRACK_GRAPH, batch, length, partial(track_runs, production.folder / TRACK_GRAPH, requests))


def _step_works(config: PerfConfig, production: Production) -> Iterator[_Work]:
    if STEP_GRAPH not in production.missing:
        for batch in STEP_BATCHES:
            ((measurements, _), *_) = requests_of(batch=batch, length=_STEPS, seed=config.seed)
            features = track_features(measurements)
            yield _Work(STEP_GRAPH, batch, None, partial(step_runs, production.folder, features, production.state))
