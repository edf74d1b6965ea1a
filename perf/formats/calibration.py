"""Benchmark of static against dynamic int8 quantisation: `python -m perf.formats.calibration CKPT`.

Half of the validation tracks calibrate the ranges, and the other half are measured. ONNX Runtime has no static int8
kernel for an LSTM: the weights are int8 in the file, and the computation is in fp32.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import onnx
import onnxruntime
import typer

from export.config import ExportConfig
from export.graphs import whole_graph
from export.quantize import dynamic_int8, static_int8
from export.sessions import Array
from export.validation import validation_of
from perf.tables import table
from reentry.decision import phase_of
from reentry.errors import InputError, ReentryError
from reentry.schema import FEATURES_TENSOR, PROBABILITY
from training.checkpoint import load_checkpoint

_TITLES: Final = ("", "kB", "times smaller", "time", "largest difference", "steps of another phase")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationMethod:
    """Measurements of one graph over whole tracks, compared with fp32."""

    name: str
    bytes: int
    smaller: float
    """Size of the fp32 graph divided by the size of this graph."""
    time: float
    """Time to score the measured tracks one by one, divided by that of fp32 in the same round; median of the rounds."""
    difference: float
    """Largest difference in probability from fp32."""
    phases: int
    """Number of steps whose phase differs from fp32."""
    steps: int
    """Total number of steps in the measured tracks."""


def compare(checkpoint_path: Path, *, data: Path | None = None, rounds: int = 9) -> list[CalibrationMethod]:
    """Measure fp32, dynamic int8 and static int8 alternately, each on one thread.

    Args:
        checkpoint_path: checkpoint that `reentry train` wrote.
        data: labelled tracks, as `reentry export --data` takes them.
        rounds: number of rounds; each measures every graph once.

    Raises:
        CheckpointError: the checkpoint is missing or invalid.
        InputError: the tracks cannot be used, or there are fewer than two.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    config = ExportConfig(checkpoint=checkpoint_path, repository="", data=data)
    tracks = [sample.features.numpy()[None] for sample in validation_of(config, checkpoint).samples]  # (1, T, F) each
    if len(tracks) < 2:
        raise InputError("too few tracks", expected="at least 2, one of them for calibration", got=str(len(tracks)))
    measured = tracks[1::2]
    plain = whole_graph(checkpoint, version=1)
    graphs = {
        "fp32": plain,
        "int8, ranges of each call": dynamic_int8(plain),
        "int8, ranges of calibration": static_int8(plain, tracks[::2]),
    }
    sessions = {name: _session(graph) for name, graph in graphs.items()}
    probability = {name: [_run(session, features) for features in measured] for name, session in sessions.items()}
    rounded = [{name: _seconds(session, measured) for name, session in sessions.items()} for _ in range(rounds)]

    methods = []
    for name, graph in graphs.items():
        pairs = list(zip(probability[name], probability["fp32"], strict=True))
        phases = [(phase_of(got, checkpoint.decision), phase_of(of, checkpoint.decision)) for got, of in pairs]
        methods.append(
            CalibrationMethod(
                name=name,
                bytes=graph.ByteSize(),
                smaller=plain.ByteSize() / graph.ByteSize(),
                time=float(np.median([seconds[name] / seconds["fp32"] for seconds in rounded])),
                difference=max(float(np.abs(got - of).max()) for got, of in pairs),
                phases=sum(int(np.sum(got != of)) for got, of in phases),
                steps=sum(features.shape[1] for features in measured),
            )
        )
    return methods


def _session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, features: Array) -> Array:
    """Return the probabilities (T,) of features (1, T, F)."""
    probability: Array = session.run([PROBABILITY.name], {FEATURES_TENSOR.name: features})[0][0]
    return probability


def _seconds(session: onnxruntime.InferenceSession, tracks: list[Array]) -> float:
    begun = time.perf_counter()
    for features in tracks:
        _run(session, features)
    return time.perf_counter() - begun


def main(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of `reentry train`.")],
    data: Annotated[Path | None, typer.Option(help="Labelled tracks to use instead of the validation tracks.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; the median is reported.")] = 9,
) -> None:
    """Print the table of docs/export.md that compares fp32 with dynamic and static int8.

    Example: `python -m perf.formats.calibration artifacts/train/model.ckpt`
    """
    try:
        methods = compare(checkpoint, data=data, rounds=rounds)
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    rows = [
        [
            method.name,
            f"{method.bytes / 1e3:.1f}",
            f"{method.smaller:.2f}",
            f"{method.time:.2f}",
            f"{method.difference:.1e}",
            f"{method.phases:,} of {method.steps:,}",
        ]
        for method in methods
    ]
    typer.echo("\n".join(table(_TITLES, rows)))


if __name__ == "__main__":
    typer.run(main)
