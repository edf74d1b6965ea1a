"""Every format of one checkpoint beside the others and beside PyTorch: size, time, throughput, memory, accuracy.

    reentry export artifacts/train/model.ckpt --benchmark

Each format runs in a process of its own. They take turns, round by round, so that whatever else the machine does meets
all of them, and a ratio is one of the same round.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import platform
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
from perf.formats.workers import Worker
from reentry.errors import ConfigError, ExportError
from reentry.runtime.cores import cores
from reentry.runtime.progress import progress
from registry.formats import FORMATS, Format
from training.checkpoint import Checkpoint, load_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig:
    """What is measured, and for how long."""

    checkpoint: Path
    """Written by `reentry train`."""
    data: Path | None = None
    """Labelled tracks for the accuracy, as in `ExportConfig`."""
    formats: tuple[Format, ...] = tuple(FORMATS)
    """Those that this machine cannot make are left out, with the reason."""
    references: tuple[str, ...] = REFERENCES
    """Of `perf.formats.measure.REFERENCES`."""
    rounds: int = 9
    """RoundRobin of every format, of which the median counts."""
    seconds: float = 0.15
    """Of each measurement in each round, s."""
    threads: int = 1
    """Of every runtime."""
    steps: int = 900
    """Of a whole track."""
    batches: tuple[int, ...] = (1, 4, 16, 32, 64)
    """Among which each format's best is looked for; the largest is what the server puts together at most."""
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)
    """Of engines."""

    def __post_init__(self) -> None:
        for name in ("rounds", "threads", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} out of range", expected="at least 1", got=str(getattr(self, name)))
        if self.seconds <= 0.0:
            raise ConfigError("seconds out of range", expected="more than 0", got=str(self.seconds))
        if not self.batches or min(self.batches) < 1:
            raise ConfigError("batches out of range", expected="at least one, each 1 or more", got=str(self.batches))
        if BASELINE not in self.formats:
            raise ConfigError("formats", expected=f"{BASELINE}, which the others are compared with, among them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What a run found."""

    config: BenchmarkConfig
    layers: int
    hidden: int
    parameters: int
    data: str
    """What the accuracy is of, in words."""
    machine: str
    rows: list[FormatRow]
    left_out: dict[str, str]
    """Why a way to run the network has no row."""


def benchmark_formats(config: BenchmarkConfig) -> Benchmark:
    """Build what this machine can, and measure it.

    Raises:
        CheckpointError: there is no usable checkpoint.
        TrackFileError, InputError: the named tracks cannot be used.
        ExportError: the fp32 ONNX graphs, with which the others are compared, cannot be built or run.
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
        np.save(scratch / "features.npy", flight_features(max(config.batches), config.steps, seed=0))
        specs = {way: _spec(way, config, checkpoint, scratch) for way in measured}
        workers = {way: processes.enter_context(Worker(spec)) for way, spec in specs.items()}
        count = BEFORE + SWEEPS * len(config.batches) + ROUND * config.rounds
        with progress("measuring", count * len(workers), "measurements") as advance:
            turns = RoundRobin(workers, measured, left_out, seconds=config.seconds, advance=advance)
            turns.prepare()
            turns.sweep(config.batches)
            for _ in range(config.rounds):
                turns.round()
    _require_baseline(left_out)
    return Benchmark(
        config=config,
        layers=checkpoint.model_config.layers,
        hidden=checkpoint.model_config.hidden,
        parameters=sum(each.numel() for each in checkpoint.model.parameters()),
        data=validation.source,
        machine=f"{_processor()}, {cores()} cores",
        rows=rows_of({way: own for way, own in measured.items() if way not in left_out}, steps=config.steps),
        left_out=left_out,
    )


def _require_baseline(left_out: Mapping[str, str]) -> None:
    if BASELINE in left_out:
        raise ExportError(f"{BASELINE}, which the others are compared with, cannot be measured: {left_out[BASELINE]}")


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


def _processor() -> str:
    """The processor's name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
