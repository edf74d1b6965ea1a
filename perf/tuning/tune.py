"""Search and confirmation of the best settings: an embedded server for each candidate, measured with perf_analyzer."""

from __future__ import annotations

import hashlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from perf.analyzer.config import PerfConfig, Workload
from perf.analyzer.installation import Analyzer, find_analyzer
from perf.analyzer.results import Figures, Origin, WorkloadResult
from perf.analyzer.slo import Objective
from perf.analyzer.sweep import embedded_server, prepared, versions
from perf.machine import machine
from perf.tuning.candidates import Subject, axes, described
from perf.tuning.config import TuneConfig
from perf.tuning.overlay import as_toml
from perf.tuning.search import Journal, Results, best_result, qualifies, search, stalled
from reentry.runtime.revision import git_revision
from reentry.serving.repository import models_of, served_versions
from reentry.serving.tuned import ModelTuning

JOURNAL: Final = "candidates.jsonl"
"""Name of the journal, which is removed once the reports are written."""

_START: Final = 6.0
"""Seconds to start and stop a server, for the first estimate of the duration."""
_OVERHEAD: Final = 3.0
"""Seconds of a workload beyond its windows, for the first estimate of the duration."""
_LONGER: Final = 2.0
"""Ratio of the windows of the confirmation to those of the search."""
_RECORDED: Final = 1000
"""Least number of requests that each turn of the confirmation records one by one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """Settings that were measured again, in turns with the others, with longer windows."""

    settings: ModelTuning
    present: bool
    """Whether these are the present settings of the server."""
    turns: tuple[WorkloadResult, ...]
    held: int
    """Number of turns that answered every request, held the limit and had no stalled request."""

    @property
    def holds(self) -> bool:
        """Whether each turn held."""
        return self.held == len(self.turns)

    @property
    def workload(self) -> Workload:
        """The workload of all turns: batch and concurrency with which the settings were fastest in the search."""
        return self.turns[0].workload

    @property
    def throughputs(self) -> list[float]:
        """Tracks per second in each turn; 0 for a turn that failed."""
        return [turn.figures.tracks_per_second if turn.figures else 0.0 for turn in self.turns]

    @property
    def median(self) -> float:
        """Median of the tracks per second."""
        return statistics.median(self.throughputs)

    @property
    def figures(self) -> list[Figures]:
        """Figures of the turns that did not fail."""
        return [turn.figures for turn in self.turns if turn.figures is not None]

    @property
    def stalls(self) -> int:
        """Number of stalled requests in all turns."""
        return sum(turn.stalls for turn in self.turns if stalled(turn, self.settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneReport(Origin):
    """Results of a search."""

    subject: Subject
    tune: TuneConfig
    measured: dict[ModelTuning, Results]
    """Results of each candidate of the search; the first is the present one."""
    finalists: list[Finalist]
    """Confirmation: the present settings first."""

    @property
    def now(self) -> Finalist:
        """The present settings with the batch and concurrency that suit them best."""
        return self.finalists[0]

    @property
    def best(self) -> Finalist | None:
        """The fastest finalist that holds in each turn; None if there is none."""
        return max((each for each in self.finalists if each.holds), key=lambda each: each.median, default=None)

    @property
    def better(self) -> Finalist | None:
        """The best finalist, if it is better than the present settings by more than the noise, or None.

        It is if each of its turns was faster than each turn of the present settings, or if the present ones held in no
        turn.
        """
        best = self.best
        if best is None or best.present:
            return None
        return best if self.now.held == 0 or min(best.throughputs) > max(self.now.throughputs) else None


def tune(
    config: PerfConfig, settings: TuneConfig, *, repository: Path, out: Path, objective: Objective | None = None
) -> TuneReport:
    """Search the settings of a model with the highest throughput that hold a limit, on this machine.

    Finished candidates are kept in the folder `out`, so that an interrupted search continues.

    Args:
        config: settings of perf_analyzer, with one model, protocol and length.
        settings: settings of the search.
        repository: model repository, which stays unchanged.
        out: folder of the journal.
        objective: latency limit; None for the highest throughput alone.

    Raises:
        ReentryError: perf_analyzer or a part of the server is missing, the repository is invalid, a server does not
            start, or perf_analyzer failed.
    """
    analyzer = find_analyzer()
    subject = Subject.of(repository, config.models[0])
    tuner = _Tuner(analyzer, repository, subject)
    conditions = {
        "config": config.as_dict(),
        "tune": settings.as_dict(),
        "objective": str(objective),
        "machine": machine(),
        "git_revision": git_revision(),
        "repository": _fingerprint(repository),
    }
    journal = Journal(out / JOURNAL, conditions)
    progress = _Progress(config, settings)

    def measure(candidate: ModelTuning) -> Results:
        if candidate not in journal.found:
            with progress.candidate(candidate):
                journal.add(candidate, tuner.measure(candidate, list(config.workloads()), config))
        return journal.found[candidate]

    measured = search(subject.present, axes(subject, settings), measure, objective, progress.announce)
    finalists = _confirm(tuner, config, settings, measured, objective)
    return TuneReport(
        config=config,
        objective=None if objective is None else str(objective),
        machine=machine(),
        versions=versions(analyzer, tuner.version, embedded=True),
        git_revision=git_revision(),
        subject=subject,
        tune=settings,
        measured=measured,
        finalists=finalists,
    )


class _Tuner:
    """Measures settings, each with a server of its own."""

    def __init__(self, analyzer: Analyzer, repository: Path, subject: Subject) -> None:
        self._analyzer = analyzer
        self._repository, self._subject = repository, subject
        self.version = "unknown"
        """Version of the server, once one has run."""

    def measure(self, settings: ModelTuning, workloads: Sequence[Workload], config: PerfConfig) -> Results:
        """Start a server with the settings and measure workloads; the present settings need no file."""
        with tempfile.TemporaryDirectory(prefix="reentry-tune-") as folder:
            tuned = None
            if settings != self._subject.present:
                tuned = Path(folder) / "tuned.toml"
                tuned.write_text(as_toml(self._subject.tables(settings)), encoding="utf-8")
            with (
                embedded_server(config, self._repository, tuned=tuned) as addresses,
                prepared(config, self._analyzer, addresses) as (measuring, self.version),
            ):
                return [measuring.measure(workload) for workload in workloads]


def _confirm(
    tuner: _Tuner,
    config: PerfConfig,
    settings: TuneConfig,
    measured: dict[ModelTuning, Results],
    objective: Objective | None,
) -> list[Finalist]:
    """Measure the present settings and the best other ones again, in turns."""
    present = next(iter(measured))
    best = {each: best_result(results, each, objective) for each, results in measured.items()}
    others = [each for each, result in best.items() if result is not None and each != present]
    others.sort(key=lambda each: _tracks(best[each]), reverse=True)
    # If the present settings do not qualify, their fastest workload is what clients get now.
    fastest = best[present] or max(measured[present], key=_tracks)
    workloads = {present: fastest.workload} | {
        each: result.workload for each in others[: settings.finalists] if (result := best[each]) is not None
    }
    longer = replace(config, window=_LONGER * config.window, recorded=max(_RECORDED, config.recorded))
    turns: dict[ModelTuning, list[WorkloadResult]] = {each: [] for each in workloads}
    for turn in range(settings.turns):
        for each, workload in workloads.items():
            _log.info(f"confirmation, turn {turn + 1} of {settings.turns}: {described(each)}, batch {workload.batch}")
            turns[each] += tuner.measure(each, [workload], longer)
    return [
        Finalist(
            settings=each,
            present=each == present,
            turns=tuple(results),
            held=sum(qualifies(result, each, objective) for result in results),
        )
        for each, results in turns.items()
    ]


class _Progress:
    """Log lines with the candidate at work and the time that is left."""

    def __init__(self, config: PerfConfig, settings: TuneConfig) -> None:
        workloads = len(list(config.workloads()))
        self._seconds = _START + workloads * (_OVERHEAD + 4.0 * config.window)
        self._confirmation = (
            (1 + settings.finalists) * settings.turns * (_START + _OVERHEAD + 4.0 * _LONGER * config.window)
        )
        self._spent: list[float] = []
        self._left = 0

    def announce(self, left: int) -> None:
        """Note the largest number of candidates that the pass over the settings can still measure."""
        self._left = left

    @contextmanager
    def candidate(self, settings: ModelTuning) -> Iterator[None]:
        """Log a candidate before it is measured, and take its time."""
        each = statistics.fmean(self._spent) if self._spent else self._seconds
        number = len(self._spent) + 1
        minutes = (max(1, self._left) * each + self._confirmation) / 60.0
        left = f"at most {self._left} more in this pass, " if self._left else ""
        _log.info(f"candidate {number}: {described(settings)}; {left}about {minutes:.0f} min left")
        begun = time.monotonic()
        yield
        self._spent.append(time.monotonic() - begun)


def _fingerprint(repository: Path) -> str:
    """Return a digest of the configurations and the served versions of a repository."""
    digest = hashlib.sha256()
    for name in models_of(repository):
        digest.update((repository / name / "config.pbtxt").read_bytes())
        for version in served_versions(repository, name):
            folder = repository / name / str(version)
            sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.*"))}
            digest.update(f"{name} {version} {sizes}".encode())
    return digest.hexdigest()


def _tracks(result: WorkloadResult | None) -> float:
    return result.figures.tracks_per_second if result is not None and result.figures is not None else 0.0
