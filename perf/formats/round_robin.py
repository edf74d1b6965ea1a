"""The benchmark's order of work: every format in turn, one measurement after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from perf.formats.figures import Measured
from perf.formats.workers import Worker
from reentry.errors import ExportError

SLOW_LOAD: Final = 2.0
"""s; what loads more slowly is loaded once, not in each round."""

BEFORE: Final = 5
"""RoundRobin of `prepare`."""
SWEEPS: Final = 3
"""Times that `sweep` tries each batch."""
ROUND: Final = 4
"""RoundRobin of `round`."""


class RoundRobin:
    """Fills in what is measured of each format. One that fails is left out from then on, and its reason kept."""

    def __init__(
        self,
        workers: Mapping[str, Worker],
        measured: Mapping[str, Measured],
        left_out: dict[str, str],
        *,
        seconds: float,
        advance: Callable[[int], None],
    ) -> None:
        """Measure for `seconds` at a time, and call `advance` after each."""
        self._workers = dict(workers)
        self._measured = measured
        self._left_out = left_out
        self._seconds = seconds
        self._advance = advance

    def prepare(self) -> None:
        """Load, run for a while, and see what memory that took."""

        def before(own: Measured, worker: Worker) -> None:
            own.base_bytes = worker.peak()

        def after(own: Measured, worker: Worker) -> None:
            own.one_bytes = worker.peak()

        self._each(before)  # the answer of a process says that its imports are done, so none disturbs the others
        self._each(lambda own, worker: own.loads.append(worker.load()))
        self._each(lambda _, worker: worker.step(self._seconds))
        self._each(lambda _, worker: worker.whole(1, self._seconds))
        self._each(after)

    def sweep(self, batches: Sequence[int]) -> None:
        """Run whole tracks in batches, the smaller ones first: memory is the most so far.

        Several times over, of which the fastest counts, so that a moment of other work does not choose the batch.
        """

        def measure(own: Measured, worker: Worker, batch: int) -> None:
            seconds = float(np.median(worker.whole(batch, self._seconds)))
            own.sweep[batch] = min(seconds, own.sweep.get(batch, seconds))
            own.batch_bytes.setdefault(batch, worker.peak())

        for _ in range(SWEEPS):
            for batch in sorted(batches):
                self._each(partial(measure, batch=batch))

    def round(self) -> None:
        """Load, one step, one track, the best batch."""

        def load(own: Measured, worker: Worker) -> None:
            if own.loads[0] < SLOW_LOAD:
                own.loads.append(worker.load())

        self._each(load)
        self._each(lambda own, worker: own.step.append(worker.step(self._seconds)))
        self._each(lambda own, worker: own.whole.append(worker.whole(1, self._seconds)))
        self._each(lambda own, worker: own.batches.append(worker.whole(own.batch, self._seconds)))

    def _each(self, measure: Callable[[Measured, Worker], object]) -> None:
        for way, worker in list(self._workers.items()):
            try:
                measure(self._measured[way], worker)
            except ExportError as error:
                self._left_out[way] = str(error)
                del self._workers[way]
            self._advance(1)
