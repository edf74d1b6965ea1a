"""Comparison of two measurements: does the second one have less throughput or a higher p99?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from perf.analyzer.config import Workload
from reentry.errors import InputError
from reentry.runtime.arguments import require_file

_KEYS: Final = ("config", "objective", "machine", "versions", "git_revision", "results")
_COMPARED: Final = ("config", "objective", "machine")
"""What must be the same in both measurements. Versions and revision may differ: they are what is compared."""
_NOT_COMPARED: Final = {"config.ceiling"}
"""Settings that change no figure of a workload."""
_WORKLOAD: Final = ("model", "protocol", "batch", "length", "load", "level")
_FIX: Final = "give a perf.json that `reentry perf run` wrote"

Verdict = Literal["same", "better", "worse", "failed", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedWorkload:
    """Figures of one workload in both measurements."""

    workload: Workload
    throughput: tuple[float, float] | None
    """Tracks per second in the first and the second measurement; None if one has no figures."""
    p99: tuple[float, float] | None
    """p99 of the latency, ms."""
    verdict: Verdict
    """`failed`: a request failed in the second measurement only. `not judged`: not stable in both."""

    @property
    def regression(self) -> bool:
        """Whether the second measurement is worse by more than the threshold."""
        return self.verdict in ("worse", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfComparison:
    """Comparison of two measurements."""

    differences: dict[str, tuple[Any, Any]]
    """Settings and properties of the machine that differ, with both values."""
    workloads: list[ComparedWorkload]
    """Workloads that both measurements have."""
    only_one: list[str]
    """Workloads that only one measurement has."""

    @property
    def regressions(self) -> list[ComparedWorkload]:
        """Workloads in which the second measurement is worse."""
        return [each for each in self.workloads if each.regression]


def parse_threshold(text: str) -> float:
    """Return the share of a threshold such as "5%".

    Raises:
        InputError: the text has another form.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?)%", text, re.ASCII)
    if match is None or not 0.0 < float(match[1]) < 100.0:
        raise InputError("invalid threshold", expected="a percentage between 0% and 100%, such as 5%", got=repr(text))
    return float(match[1]) / 100.0


def compare_files(first: Path, second: Path, *, threshold: float, force: bool) -> PerfComparison:
    """Compare two perf.json.

    Args:
        first: file of the measurement to compare with.
        second: file of the new measurement.
        threshold: largest relative loss of throughput, and increase of p99, that is no regression.
        force: whether to compare measurements with other settings or of another machine.

    Raises:
        InputError: a file is not a report, the settings or the machines differ, or no workload can be judged.
    """
    contents = _read(first), _read(second)
    differences = _differences(*contents)
    if differences and not force:
        listed = ", ".join(f"{name} ({old} and {new})" for name, (old, new) in differences.items())
        raise InputError(
            f"the measurements differ in {listed}",
            where=str(second),
            expected=f"the settings and the machine of {first}",
            fix="measure both in the same way, or compare them nevertheless with --force",
        )
    old, new = ({_workload(row): row for row in content["results"]} for content in contents)
    compared = [_compared(each, old[each], new[each], threshold) for each in old if each in new]
    if all(each.verdict == "not judged" for each in compared):
        raise InputError(
            "nothing can be compared",
            where=str(second),
            expected="a workload that is stable in both measurements",
            fix="measure again with a longer window on an idle machine",
        )
    only_one = [str(each) for each in (*old, *new) if (each in old) != (each in new)]
    return PerfComparison(differences=differences, workloads=compared, only_one=only_one)


def _compared(workload: Workload, old: Mapping[str, Any], new: Mapping[str, Any], threshold: float) -> ComparedWorkload:
    if old["figures"] is None or new["figures"] is None:
        failed = new["figures"] is None and old["figures"] is not None
        verdict: Verdict = "failed" if failed else "not judged"
        return ComparedWorkload(workload=workload, throughput=None, p99=None, verdict=verdict)
    throughput, p99 = (
        (float(old["figures"][name]), float(new["figures"][name])) for name in ("tracks_per_second", "p99")
    )
    if (old["status"], new["status"]) != ("stable", "stable"):
        verdict = "not judged"
    elif throughput[1] < throughput[0] * (1.0 - threshold) or p99[1] > p99[0] * (1.0 + threshold):
        verdict = "worse"
    elif throughput[1] > throughput[0] * (1.0 + threshold) or p99[1] < p99[0] * (1.0 - threshold):
        verdict = "better"
    else:
        verdict = "same"
    return ComparedWorkload(workload=workload, throughput=throughput, p99=p99, verdict=verdict)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {}
    for part in _COMPARED:
        ours, theirs = (_flat(part, content[part]) for content in (old, new))
        for name in ours | theirs:
            if name not in _NOT_COMPARED and ours.get(name) != theirs.get(name):
                found[name] = (ours.get(name), theirs.get(name))
    return found


def _flat(part: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {part: content}
    return {f"{part}.{name}": value for name, value in content.items()}


def _workload(row: Mapping[str, Any]) -> Workload:
    return Workload(**{name: row[name] for name in _WORKLOAD})


def _read(path: Path) -> dict[str, Any]:
    require_file(path, fix=_FIX)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for row in content["results"]:
            _workload(row)
            if row["figures"] is not None:
                float(row["figures"]["tracks_per_second"]), float(row["figures"]["p99"])
            str(row["status"])
        return {name: content[name] for name in _KEYS}
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise InputError(
            f"not a report of `reentry perf run`: {type(error).__name__}: {error}", where=str(path), fix=_FIX
        ) from error
