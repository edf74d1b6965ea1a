"""Benchmark of the export formats of one checkpoint and of PyTorch: size, time, throughput, memory, accuracy.

    reentry export artifacts/train/model.ckpt --benchmark

Each format runs in a process of its own. Every round measures each format once, so that other load on the machine
affects all of them, and ratios are taken within one round.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.config import ExportConfig
from export.tensorrt.config import TensorRTConfig
from export.validation import flight_features, validation_of
from perf.formats.build import built
from perf.formats.figures import BASELINE, FormatRow, Measured, rows_of
from perf.formats.measure import REFERENCES, Spec
from perf.formats.round_robin import BEFORE, ROUND, SWEEPS, RoundRobin
from perf.formats.workers import FormatWorker
from perf.machine import processor
from reentry.errors import ConfigError, ExportError
from reentry.runtime.cores import cores
from reentry.runtime.progress import progress
from registry.formats import FORMATS, Format
from training.checkpoint import Checkpoint, load_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    checkpoint: Path
    """Checkpoint that `reentry train` wrote."""
    data: Path | None = None
    """Labelled tracks for measuring the accuracy, as in `ExportConfig`."""
    formats: tuple[Format, ...] = tuple(FORMATS)
    """Formats to measure. A format that this machine cannot build is left out, with the reason."""
    references: tuple[str, ...] = REFERENCES
    """References to measure, a subset of `perf.formats.measure.REFERENCES`."""
    rounds: int = 9
    """Number of rounds; the median is reported."""
    seconds: float = 0.15
    """Duration of each measurement, s."""
    threads: int = 1
    """Number of threads of each runtime."""
    steps: int = 900
    """Number of steps in a whole track."""
    batches: tuple[int, ...] = (1, 4, 16, 32, 64)
    """Batch sizes among which the fastest is chosen for each format. The largest is the server's maximum."""
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)
    """Settings for building TensorRT engines."""

    def __post_init__(self) -> None:
        for name in ("rounds", "threads", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} out of range", expected="at least 1", got=str(getattr(self, name)))
        if self.seconds <= 0.0:
            raise ConfigError("seconds out of range", expected="more than 0", got=str(self.seconds))
        if not self.batches or min(self.batches) < 1:
            raise ConfigError("batches out of range", expected="at least one, each 1 or more", got=str(self.batches))
        if BASELINE not in self.formats:
            raise ConfigError("formats", expected=f"{BASELINE} among them, which is the baseline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Result of a benchmark."""

    config: BenchmarkConfig
    layers: int
    hidden: int
    parameters: int
    data: str
    """Description of the tracks that the accuracy was measured on."""
    machine: str
    rows: list[FormatRow]
    left_out: dict[str, str]
    """Reason, by name, why a format or reference was not measured."""


def benchmark_formats(config: BenchmarkConfig) -> Benchmark:
    """Build and measure every format that this machine supports.

    Raises:
        CheckpointError: the checkpoint is missing or invalid.
        TrackFileError, InputError: the labelled tracks cannot be used.
        ExportError: the baseline, the fp32 ONNX graphs, cannot be built or run.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    export = ExportConfig(
        checkpoint=config.checkpoint,
        repository="",
        formats=config.formats,
        data=config.data,
        tensorrt=config.tensorrt,
    )
    validation = validation_of(export, checkpoint)
    with tempfile.TemporaryDirectory(prefix="reentry-benchmark-") as name, ExitStack() as processes:
        scratch = Path(name)
        measured, left_out = built(export, checkpoint, validation.samples, scratch)
        _require_baseline(left_out)
        measured |= {way: Measured() for way in config.references}
        features = flight_features(max(config.batches), config.steps, 0, checkpoint.model_config.groups)
        np.save(scratch / "features.npy", features)
        specs = {way: _spec(way, config, checkpoint, scratch) for way in measured}
        workers = {way: processes.enter_context(FormatWorker(spec)) for way, spec in specs.items()}
        count = BEFORE + SWEEPS * len(config.batches) + ROUND * config.rounds
        with progress("measuring", count * len(workers), "measurements") as advance:
            rounds = RoundRobin(workers, measured, left_out, seconds=config.seconds, advance=advance)
            rounds.prepare()
            rounds.sweep(config.batches)
            for _ in range(config.rounds):
                rounds.round()
    _require_baseline(left_out)
    return Benchmark(
        config=config,
        layers=checkpoint.model_config.layers,
        hidden=checkpoint.model_config.hidden,
        parameters=sum(each.numel() for each in checkpoint.model.parameters()),
        data=validation.source,
        machine=f"{processor()}, {cores()} cores",
        rows=rows_of({way: own for way, own in measured.items() if way not in left_out}, steps=config.steps),
        left_out=left_out,
    )


def _require_baseline(left_out: Mapping[str, str]) -> None:
    if BASELINE in left_out:
        raise ExportError(f"the baseline {BASELINE} cannot be measured: {left_out[BASELINE]}")


def _spec(way: str, config: BenchmarkConfig, checkpoint: Checkpoint, scratch: Path) -> Spec:
    return Spec(
        way=way,
        checkpoint=config.checkpoint,
        folder=scratch / way,
        features=scratch / "features.npy",
        layers=checkpoint.model_config.layers,
        hidden=checkpoint.model_config.hidden,
        threads=config.threads,
    )
