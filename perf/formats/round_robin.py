"""Order of the benchmark's measurements: round robin over the formats, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from perf.formats.figures import Measured
from perf.formats.workers import FormatWorker
from reentry.errors import ExportError

SLOW_LOAD: Final = 2.0
"""A model that takes longer to load than this, in s, is loaded once and not in each round."""

BEFORE: Final = 5
"""Number of measurements per format in `prepare`."""
SWEEPS: Final = 3
"""Number of times that `sweep` measures each batch size."""
ROUND: Final = 4
"""Number of measurements per format in `round`."""


class RoundRobin:
    """Measures the formats in turn and records the results. A format that fails is dropped, with the reason."""

    def __init__(
        self,
        workers: Mapping[str, FormatWorker],
        measured: Mapping[str, Measured],
        left_out: dict[str, str],
        *,
        seconds: float,
        advance: Callable[[int], None],
    ) -> None:
        """Measure for `seconds` at a time, and call `advance` after each measurement."""
        self._workers = dict(workers)
        self._measured = measured
        self._left_out = left_out
        self._seconds = seconds
        self._advance = advance

    def prepare(self) -> None:
        """Load each model, run it briefly, and record its memory."""

        def before(own: Measured, worker: FormatWorker) -> None:
            own.base_bytes = worker.peak()

        def after(own: Measured, worker: FormatWorker) -> None:
            own.one_bytes = worker.peak()

        self._each(before)  # a process that answers has finished its imports and no longer disturbs the others
        self._each(lambda own, worker: own.loads.append(worker.load()))
        self._each(lambda _, worker: worker.step(self._seconds))
        self._each(lambda _, worker: worker.whole(1, self._seconds))
        self._each(after)

    def sweep(self, batches: Sequence[int]) -> None:
        """Measure each batch size, smaller ones first because the recorded memory is a peak.

        Each is measured several times and the fastest counts, so that a brief load on the machine does not decide.
        """

        def measure(own: Measured, worker: FormatWorker, batch: int) -> None:
            seconds = float(np.median(worker.whole(batch, self._seconds)))
            own.sweep[batch] = min(seconds, own.sweep.get(batch, seconds))
            own.batch_bytes.setdefault(batch, worker.peak())

        for _ in range(SWEEPS):
            for batch in sorted(batches):
                self._each(partial(measure, batch=batch))

    def round(self) -> None:
        """Measure loading, one step, one track, and the best batch of each format once."""

        def load(own: Measured, worker: FormatWorker) -> None:
            if own.loads[0] < SLOW_LOAD:
                own.loads.append(worker.load())

        self._each(load)
        self._each(lambda own, worker: own.step.append(worker.step(self._seconds)))
        self._each(lambda own, worker: own.whole.append(worker.whole(1, self._seconds)))
        self._each(lambda own, worker: own.batches.append(worker.whole(own.batch, self._seconds)))

    def _each(self, measure: Callable[[Measured, FormatWorker], object]) -> None:
        for way, worker in list(self._workers.items()):
            try:
                measure(self._measured[way], worker)
            except ExportError as error:
                self._left_out[way] = str(error)
                del self._workers[way]
            self._advance(1)
