"""Measurement of one workload with perf_analyzer.

Each workload is one run with a stability check. If it does not become stable, it is run again without the check, so
that it still has figures. A further, shorter run records single requests, because perf_analyzer writes the inputs of
each one as text, 200 kB for a track of 900 steps, which would take minutes for all requests of a run.
"""

from __future__ import annotations

import logging
import math
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perf.analyzer.config import CONCURRENCY, HTTP, SHARED_MEMORY, PerfConfig, Workload, steps_of
from perf.analyzer.inputs import LIVE_TRACKS
from perf.analyzer.installation import Analyzer
from perf.analyzer.output import STALL, failed_request, read_figures, read_latencies
from perf.analyzer.results import Figures, WorkloadResult
from reentry.errors import ClientError

_UNCHECKED: Final = "1000000"
"""Percentage of --stability-percentage with which every result counts as stable."""
_UNSTABLE: Final = "Failed to obtain stable measurement"
_NO_ANSWER: Final = "No valid requests recorded"
_RECORDING: Final = 10.0
"""Seconds that the recording of single requests may take at the measured throughput."""
_START: Final = 60.0
"""Seconds that perf_analyzer gets beyond its windows, to start and to write its files."""
_OUTPUT_BYTES: Final = 4096
"""Bytes of shared memory for the texts among the outputs of one track."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """One finished run of perf_analyzer."""

    code: int
    output: str
    errors: str

    @property
    def unstable(self) -> bool:
        return self.code != 0 and _UNSTABLE in self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """Everything that the measurements of all workloads share."""

    analyzer: Analyzer
    config: PerfConfig
    addresses: Mapping[str, str]
    """Address of the server as host:port, by protocol."""
    inputs: Mapping[tuple[str, int, str], Path]
    """Input file, by model, batch and length."""

    def measure(self, workload: Workload) -> WorkloadResult:
        """Measure one workload.

        Raises:
            ClientError: perf_analyzer failed for a reason that is no result, such as an invalid option.
        """
        with tempfile.TemporaryDirectory(prefix="reentry-perf-") as folder:
            stability = ["--stability-percentage", f"{self.config.stability:g}"]
            run = self._run(workload, stability, Path(folder))
            stable = not run.unstable
            if not stable:
                _log.warning(
                    f"{workload}: not stable, throughput or latency of three windows differ by more than "
                    f"{self.config.stability:g}%"
                )
                run = self._run(workload, ["--stability-percentage", _UNCHECKED], Path(folder))
            if run.code != 0:
                return _failed(workload, run)
            figures = read_figures(Path(folder) / "level.csv", run.output)
            return self._record(workload, stable, figures, Path(folder))

    def _record(self, workload: Workload, stable: bool, figures: Figures, folder: Path) -> WorkloadResult:
        per_second = figures.tracks_per_second / workload.batch
        count = min(self.config.recorded, round(per_second * _RECORDING))
        count = max(count, math.ceil(workload.level))  # perf_analyzer accepts no fewer
        latencies: list[float] = []
        if self.config.recorded:
            options = ["--request-count", str(count), "--profile-export-file", "requests.json"]
            run = self._run(workload, options, folder)
            if run.code != 0:
                return _failed(workload, run)
            latencies = read_latencies(folder / "requests.json")
        return WorkloadResult(
            workload=workload,
            stable=stable,
            figures=figures,
            recorded=len(latencies),
            stalls=sum(latency > STALL for latency in latencies),
        )

    def _run(self, workload: Workload, options: list[str], folder: Path) -> _Run:
        command = [*self.command(workload), *options]
        _log.debug("running %s", " ".join(command))
        limit = _START + 2.0 * self.config.windows * self.config.window
        try:
            # The names of the members' files are made from the name of the CSV file, which must have no folder.
            done = subprocess.run(
                command,
                cwd=folder,
                env=self.analyzer.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ClientError(
                f"perf_analyzer did not end within {limit:g} s",
                where=str(workload),
                fix="check whether the server still answers, or use lower concurrency",
            ) from None
        return _Run(done.returncode, done.stdout, done.stderr)

    def command(self, workload: Workload) -> list[str]:
        """Return the command line of perf_analyzer, without the options of stability."""
        config, length = self.config, workload.length
        command = [
            str(self.analyzer.binary),
            *("-m", workload.model),
            *("-u", self.addresses[workload.protocol]),
            *("-i", "http" if workload.protocol == HTTP else "grpc"),
            *("-b", str(workload.batch)),
            *("--input-data", str(self.inputs[workload.model, workload.batch, length])),
            *("--measurement-interval", str(round(config.window * 1e3))),
            *("--max-trials", str(config.windows)),
            *("-f", "level.csv", "--verbose-csv"),
        ]
        if config.is_live:
            # A measurement that overtook the first one of its track would be refused.
            command += ["--num-of-sequences", str(LIVE_TRACKS), "--serial-sequences"]
        if workload.load == CONCURRENCY:
            command += ["--concurrency-range", f"{workload.level:g}"]
        else:
            # Without --async the rate is limited to four requests in flight.
            command += ["--async", "--request-rate-range", f"{workload.level:g}"]
            command += ["--request-distribution", workload.load]
        if workload.protocol == SHARED_MEMORY:
            size = 8 * steps_of(length)[1] + _OUTPUT_BYTES
            command += ["--shared-memory", "system", "--output-shared-memory-size", str(size)]
        return command


def _failed(workload: Workload, run: _Run) -> WorkloadResult:
    """Return the result of a workload without figures, because a request failed or none was answered in time.

    Raises:
        ClientError: perf_analyzer failed for another reason.
    """
    failure = failed_request(run.errors)
    if run.unstable:
        failure = "no measurement even without the stability check; use a longer window"
    if _NO_ANSWER in run.errors:  # also one stalled request, if it takes longer than the window
        failure = "no request was answered within a measurement window; use a longer window"
    if failure is not None:
        _log.warning(f"{workload}: failed: {failure}")
        return WorkloadResult(workload=workload, stable=False, figures=None, failure=failure)
    lines = [line.strip() for line in run.errors.split("Usage:")[0].splitlines() if line.strip()]
    lines = [line for line in lines if line.lower().startswith("error:")] or lines[-1:]
    reason = lines[0] if lines else f"no reason given, exit status {run.code}"
    raise ClientError("perf_analyzer failed", where=str(workload), got=reason, fix=_fix(reason))


def _fix(reason: str) -> str | None:
    if "restricted" in reason:
        return "omit --url, so that a server is started that lets perf_analyzer register shared memory"
    if "requested model version" in reason:  # its message if the statistics of a window have no request
        return "use a longer window in the table [perf] of --config"
    return None
