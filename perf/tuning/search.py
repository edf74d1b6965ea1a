"""Search for the best candidate by coordinate descent, with a journal that an interrupted search continues from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from perf.analyzer.output import STALL
from perf.analyzer.results import Figures, WorkloadResult
from perf.analyzer.slo import Objective
from perf.tuning.candidates import Axis
from reentry.runtime.files import writing
from reentry.serving.tuned import ModelTuning

ROUNDS: Final = 2
"""Number of passes over the axes, unless a pass finds nothing better."""

_log = logging.getLogger(__name__)

Results = list[WorkloadResult]


def search(
    start: ModelTuning,
    axes: Mapping[str, Axis],
    measure: Callable[[ModelTuning], Results],
    objective: Objective | None,
    announce: Callable[[int], None],
) -> dict[ModelTuning, Results]:
    """Measure the start, then improve one setting after the other, and return the results of all candidates.

    Args:
        start: the present settings.
        axes: function for each setting that yields the candidates along it.
        measure: measures a candidate with each batch and concurrency.
        objective: latency limit; None for the highest throughput alone.
        announce: receives the largest number of candidates that the pass can still measure, before each of them.
    """
    measured = {start: measure(start)}
    best = start
    for _ in range(ROUNDS):
        begun = best
        for position, axis in enumerate(axes.values()):
            for candidate in [each for each in axis(best) if each not in measured]:
                later = list(axes.values())[position:]
                announce(len({each for other in later for each in other(best)} - measured.keys()))
                measured[candidate] = measure(candidate)
            best = max((best, *axis(best)), key=lambda each: _throughput(measured[each], each, objective))
        if best == begun:
            break
    return measured


def best_result(results: Results, settings: ModelTuning, objective: Objective | None) -> WorkloadResult | None:
    """Return the result with the most tracks per second among those that qualify, or None."""
    qualified = [each for each in results if qualifies(each, settings, objective)]
    return max(qualified, key=lambda each: _figures(each).tracks_per_second, default=None)


def qualifies(result: WorkloadResult, settings: ModelTuning, objective: Objective | None) -> bool:
    """Return whether a result answers every request, holds the limit and has no stalled request.

    Whether it is stable does not matter here, since the windows of a search are short; the confirmation repeats it.
    """
    if result.figures is None or stalled(result, settings):
        return False
    return objective is None or objective.met_by(result.figures)


def stalled(result: WorkloadResult, settings: ModelTuning) -> bool:
    """Return whether Triton's dynamic batcher stalled a request, as opposed to an overload that slows all of them."""
    if result.figures is None or not settings.queued:
        return False
    return result.stalls > 0 and result.figures.p50 < STALL / 2


class Journal:
    """Results of the finished candidates in a file. A search with the same settings on the same machine reuses them."""

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        """Read the file, or start a new one if it is missing or from other conditions.

        Raises:
            InputError: the file cannot be written.
        """
        self.path = path
        self.found: dict[ModelTuning, Results] = {}
        header = json.dumps({"conditions": conditions}, sort_keys=True)
        with writing(path):
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            if lines and lines[0] == header:
                self._read(lines[1:])
                _log.info(f"{len(self.found)} candidates of an interrupted search are reused from {path}")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(header + "\n", encoding="utf-8")

    def add(self, settings: ModelTuning, results: Results) -> None:
        """Append a finished candidate.

        Raises:
            InputError: the file cannot be written.
        """
        line = _adapter().dump_json((settings, results)).decode()
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.found[settings] = results

    def _read(self, lines: list[str]) -> None:
        from pydantic import ValidationError

        for line in lines:
            try:
                settings, results = _adapter().validate_json(line)
            except ValidationError:  # a line that was cut off
                continue
            self.found[settings] = results


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[ModelTuning, list[WorkloadResult]])


def _throughput(results: Results, settings: ModelTuning, objective: Objective | None) -> float:
    best = best_result(results, settings, objective)
    return 0.0 if best is None else _figures(best).tracks_per_second


def _figures(result: WorkloadResult) -> Figures:
    assert result.figures is not None, "checked by `qualifies`"
    return result.figures
