"""What static calibration would give in place of int8 by each call's ranges: `python -m perf.formats.calibration CKPT`.

Half of the validation tracks fix the ranges, the other half measure. ONNX Runtime has no static kernel for an LSTM: its
weights are int8 in the file, and it computes in fp32.

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
from perf.formats.report import table
from reentry.decision import phase_of
from reentry.errors import InputError, ReentryError
from reentry.schema import FEATURES_TENSOR, PROBABILITY
from training.checkpoint import load_checkpoint

_TITLES: Final = ("", "kB", "times smaller", "time", "largest difference", "steps of another phase")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationMethod:
    """One graph over whole tracks, beside fp32."""

    name: str
    bytes: int
    smaller: float
    """Times that fp32 is larger."""
    time: float
    """Of the measured tracks one by one, as a ratio to fp32 in the same round; median of the rounds."""
    difference: float
    """Largest of any probability from fp32's."""
    phases: int
    """Steps whose phase is another than fp32's."""
    steps: int
    """Of the measured tracks."""


def compare(checkpoint_path: Path, *, data: Path | None = None, rounds: int = 9) -> list[CalibrationMethod]:
    """Measure fp32, dynamic and static int8 in turns, each on one thread.

    Args:
        checkpoint_path: written by `reentry train`.
        data: labelled tracks, as `reentry export --data` takes them.
        rounds: turns of each.

    Raises:
        CheckpointError: there is no usable checkpoint.
        InputError: the tracks cannot be used, or are fewer than two.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    config = ExportConfig(checkpoint=checkpoint_path, repository="", data=data)
    tracks = [sample.features.numpy()[None] for sample in validation_of(config, checkpoint).samples]  # (1, T, F) each
    if len(tracks) < 2:
        raise InputError("too few tracks", expected="2 at least, one to calibrate with", got=str(len(tracks)))
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

    ways = []
    for name, graph in graphs.items():
        pairs = list(zip(probability[name], probability["fp32"], strict=True))
        phases = [(phase_of(got, checkpoint.decision), phase_of(of, checkpoint.decision)) for got, of in pairs]
        ways.append(
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
    return ways


def _session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, features: Array) -> Array:
    """(1, T, F) -> (T,)."""
    probability: Array = session.run([PROBABILITY.name], {FEATURES_TENSOR.name: features})[0][0]
    return probability


def _seconds(session: onnxruntime.InferenceSession, tracks: list[Array]) -> float:
    begun = time.perf_counter()
    for features in tracks:
        _run(session, features)
    return time.perf_counter() - begun


def main(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of `reentry train`.")],
    data: Annotated[Path | None, typer.Option(help="Labelled tracks, in place of those held out.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="RoundRobin of each, of which the median counts.")] = 9,
) -> None:
    """Print fp32, dynamic and static int8 side by side, for docs/export.md.

    Example: `python -m perf.formats.calibration artifacts/train/model.ckpt`
    """
    try:
        ways = compare(checkpoint, data=data, rounds=rounds)
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    rows = [
        [
            way.name,
            f"{way.bytes / 1e3:.1f}",
            f"{way.smaller:.2f}",
            f"{way.time:.2f}",
            f"{way.difference:.1e}",
            f"{way.phases:,} of {way.steps:,}",
        ]
        for way in ways
    ]
    typer.echo("\n".join(table(_TITLES, rows)))


if __name__ == "__main__":
    typer.run(main)
