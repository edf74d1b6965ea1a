"""Benchmark of `reentry predict` on files of 10 to 100,000 tracks: time of each phase, and peak memory.

    python -m perf.predict --largest 10000 --out artifacts/predict-scale

A few hundred simulated tracks are repeated under new ids and at later times. Each file is scored by one run of the
command, in a process of its own, through one embedded server. Client and server share the machine.
"""

from __future__ import annotations

import csv
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import typer
from matplotlib.figure import Figure

from perf.machine import memory_gib, processor
from perf.measured_process import measured
from perf.processor import machine_cpu_seconds
from perf.tables import table
from reentry import __version__
from reentry.errors import ConfigError, ReentryError
from reentry.runtime.cores import cores
from reentry.runtime.files import whole_file
from reentry.runtime.revision import git_revision
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import write_tracks

FORMATS: Final = ("csv", "parquet")
SMALLEST: Final = 10

_DISTINCT_TRACKS: Final = 300
_PHASES: Final = {"start": "tab:grey", "read": "tab:blue", "score": "tab:orange", "write": "tab:green"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRun:
    """Figures of one run of `reentry predict`."""

    format: str
    tracks: int
    rows: int
    file_mib: float
    wall_seconds: float
    """Time from the start of the process to its end, s."""
    start_seconds: float
    """Part of it outside the three phases: imports, and the removal of temporary files at the end."""
    read_seconds: float
    score_seconds: float
    write_seconds: float
    cpu_seconds: float
    """User and system time of the client process, s."""
    peak_mib: float
    """Largest resident memory of the client process."""

    @property
    def ms_per_track(self) -> dict[str, float]:
        """Wall time of each phase divided by the number of tracks, ms."""
        return {phase: 1e3 * getattr(self, f"{phase}_seconds") / self.tracks for phase in _PHASES}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictScale:
    """All runs of a benchmark, with the machine and the versions."""

    machine: dict[str, Any]
    """Processor, number of cores and memory of the machine, in GiB."""
    versions: dict[str, str]
    git_revision: str
    busy: float
    """Fraction of the cores that all programs used during the runs, this benchmark included."""
    runs: list[PredictRun]


def repeated_tracks(tracks: int, *, labels: bool = False) -> Iterator[pd.DataFrame]:
    """Yield tables of simulated tracks of 600 to 1,200 steps, repeated under new ids and at later times."""
    config = TrapezoidConfig(tracks=min(tracks, _DISTINCT_TRACKS), labels=labels)
    simulated = simulate_trapezoid(config)
    for first in range(0, tracks, _DISTINCT_TRACKS):
        part = simulated[simulated["track_id"] < tracks - first]
        yield part.assign(
            track_id=part["track_id"] + first, timestamp=part["timestamp"] + first * config.launch_interval
        )


def measure(source: Path, url: str, out: Path) -> PredictRun:
    """Run `reentry predict` on a file once.

    Raises:
        ReentryError: the command failed.
    """
    run = measured(["predict", str(source), "--url", url, "--out", str(out), "--json"])
    summary = json.loads(run.output)
    phases = summary["reading_seconds"], summary["seconds"], summary["writing_seconds"]
    return PredictRun(
        format=source.suffix.removeprefix("."),
        tracks=summary["tracks"],
        rows=summary["rows"],
        file_mib=source.stat().st_size / 2**20,
        wall_seconds=run.wall_seconds,
        start_seconds=run.wall_seconds - sum(phases),
        read_seconds=phases[0],
        score_seconds=phases[1],
        write_seconds=phases[2],
        cpu_seconds=run.cpu_seconds,
        peak_mib=run.peak_bytes / 2**20,
    )


def run_benchmark(*, largest: int, formats: Sequence[str], repository: Path, out: Path) -> PredictScale:
    """Measure all sizes and formats, and write `predict.csv`, `predict.json`, `predict.md` and `predict.png`.

    Args:
        largest: largest number of tracks in a file; the sizes are the powers of ten from `SMALLEST` up to it, and it.
        formats: formats to measure, of `FORMATS`.
        repository: model repository with an exported version.
        out: folder of the result; the track files are made there and removed again.

    Raises:
        ConfigError: a setting is out of range.
        ReentryError: the server does not start, or the command fails.
    """
    if largest < SMALLEST or not formats or not set(formats) <= set(FORMATS):
        raise ConfigError(
            "invalid settings", expected=f"at least {SMALLEST} tracks, formats {FORMATS}", got=f"{largest}, {formats}"
        )
    powers = [SMALLEST * 10**power for power in range(12)]
    sizes = [size for size in powers if size < largest] + [largest]
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    busy, lasted = 0.0, 0.0
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with tempfile.TemporaryDirectory(dir=out) as temporary, EmbeddedServer(config) as server:
        folder, url = Path(temporary), f"grpc://{server.grpc_url}"

        def made(size: int, suffix: str) -> Path:
            write_tracks(folder / f"tracks.{suffix}", repeated_tracks(size))
            return folder / f"tracks.{suffix}"

        measure(made(SMALLEST, formats[0]), url, folder / "results")  # warms up the server
        for size in sizes:
            for suffix in formats:
                source = made(size, suffix)
                before = machine_cpu_seconds()
                runs.append(measure(source, url, folder / "results"))
                busy += machine_cpu_seconds() - before
                lasted += runs[-1].wall_seconds
    scale = PredictScale(
        machine={"processor": processor(), "cores": cores(), "memory_gib": memory_gib()},
        versions={
            "reentry": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pandas": pd.__version__,
            "pyarrow": pa.__version__,
        },
        git_revision=git_revision(),
        busy=busy / lasted / cores(),
        runs=runs,
    )
    _write(scale, out)
    return scale


def _write(scale: PredictScale, out: Path) -> None:
    with whole_file(out / "predict.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(PredictRun)])
        writer.writerows([getattr(run, field.name) for field in fields(PredictRun)] for run in scale.runs)
    with whole_file(out / "predict.json") as temporary:
        temporary.write_text(json.dumps(asdict(scale), indent=2) + "\n")
    with whole_file(out / "predict.md") as temporary:
        temporary.write_text(markdown(scale))
    with whole_file(out / "predict.png") as temporary:
        plot(scale).savefig(temporary)


def markdown(scale: PredictScale) -> str:
    """Return the report as Markdown."""
    machine = scale.machine
    versions = ", ".join(f"{name} {version}" for name, version in scale.versions.items())
    titles = (
        "format",
        "tracks",
        "rows",
        "wall s",
        *(f"{phase} ms/track" for phase in _PHASES),
        "CPU ms/track",
        "peak MiB",
    )
    rows = [
        [
            *(run.format, f"{run.tracks:,}", f"{run.rows:,}", f"{run.wall_seconds:.2f}"),
            *(f"{cost:.3f}" for cost in run.ms_per_track.values()),
            *(f"{1e3 * run.cpu_seconds / run.tracks:.3f}", f"{run.peak_mib:,.0f}"),
        ]
        for run in scale.runs
    ]
    lines = [
        "# Scoring files with reentry predict",
        "",
        f"- machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "- client and server share the machine",
        f"- versions: {versions}; git revision {scale.git_revision}",
        f"- all programs together used {scale.busy:.0%} of the cores during the runs",
        "- start: imports, and the removal of temporary files at the end; CPU and peak: the client process alone",
        "",
        *table(titles, rows),
    ]
    return "\n".join(lines) + "\n"


def plot(scale: PredictScale) -> Figure:
    """Return a figure of the cost per track and the peak memory against the number of tracks."""
    figure = Figure(figsize=(10, 8), dpi=100, layout="constrained")
    formats = list(dict.fromkeys(run.format for run in scale.runs))
    axes = figure.subplots(2, len(formats), squeeze=False, sharex=True, sharey="row")
    for column, name in enumerate(formats):
        runs = [run for run in scale.runs if run.format == name]
        tracks = [run.tracks for run in runs]
        cost, memory = axes[0][column], axes[1][column]
        for phase, colour in _PHASES.items():
            cost.plot(tracks, [run.ms_per_track[phase] for run in runs], "o-", color=colour, label=phase)
        cpu = [1e3 * run.cpu_seconds / run.tracks for run in runs]
        cost.plot(tracks, cpu, "--", color="black", label="processor time of the client")
        memory.plot(tracks, [run.peak_mib for run in runs], "o-", color="tab:red")
        cost.set_title(name)
        cost.set_yscale("log")
        memory.set_xscale("log")
        memory.set_xlabel("tracks")
    axes[0][0].set_ylabel("time per track, ms; solid lines: wall time")
    axes[1][0].set_ylabel("peak memory of the client, MiB")
    axes[1][0].set_ylim(bottom=0.0)
    axes[0][0].legend()
    for each in axes.flat:
        each.grid(visible=True, alpha=0.3)
    return figure


def main(
    largest: Annotated[int, typer.Option(help="Largest number of tracks in a file, for example 100000.")] = 10_000,
    formats: Annotated[list[str], typer.Option("--format", help="Format of the files; repeatable.")] = list(FORMATS),  # noqa: B006
    repository: Annotated[Path, typer.Option(help="Model repository with an exported version.")] = Path(
        "model_repository"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("artifacts/predict-scale"),
) -> None:
    """Measure time and memory of `reentry predict` for files of 10, 100, 1,000 ... tracks, and print the report.

    Example: `python -m perf.predict --largest 10000`
    """
    try:
        typer.echo(markdown(run_benchmark(largest=largest, formats=formats, repository=repository, out=out)))
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
