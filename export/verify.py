"""The gate: an exported graph is installed only when it is the trained network.

In order, and each with its own error: names, axes, shapes, finite values, values against PyTorch over a grid of batch
sizes and lengths, and a track's prefix against the whole.

Shapes: B tracks, T steps, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from export.graphs import BATCH_AXIS, TIME_AXIS
from reentry.errors import ExportError
from reentry.features import track_features
from reentry.schema import FEATURES, MEASUREMENT_COLUMNS, REENTRY_LSTM, Tensor
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from training.model import ReentryLSTM

_ONNX_TYPES = {"FP32": onnx.TensorProto.FLOAT, "INT64": onnx.TensorProto.INT64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the gate measured."""

    max_difference: float
    """Of any probability from PyTorch's."""
    prefix_difference: float
    """Of any probability of a prefix from the same step's in the whole."""
    cases: int
    """Pairs of batch size and length."""


def verify(
    graph: onnx.ModelProto,
    model: ReentryLSTM,
    *,
    version: int,
    batches: Sequence[int],
    lengths: Sequence[int],
    tolerance: float,
) -> Verification:
    """Hold the graph against the network it was made from.

    Raises:
        ExportError: which check failed, where, and by how much.
    """
    _check_signature(graph)
    session = session_of(graph)
    worst = worst_prefix = 0.0
    for batch in batches:
        for length in lengths:
            where = f"batch {batch}, length {length}"
            features = flight_features(batch, length, seed=1000 * batch + length)
            got = _run(session, features, version, where)
            with torch.no_grad():
                expected = torch.sigmoid(model(torch.from_numpy(features))[0]).numpy()
            worst = max(worst, _difference("values against PyTorch", where, got, expected, tolerance))
            prefix = max(1, length // 2)
            cut = _run(session, features[:, :prefix], version, f"{where}, prefix {prefix}")
            worst_prefix = max(worst_prefix, _difference("prefix", where, cut, got[:, :prefix], tolerance))
    return Verification(max_difference=worst, prefix_difference=worst_prefix, cases=len(batches) * len(lengths))


def session_of(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def flight_features(batch: int, length: int, seed: int) -> npt.NDArray[np.float32]:
    """Features (B, T, F) of simulated flights, or of parts of them where `length` is less than a flight's steps.

    Flights rather than noise: what jumps at random from step to step keeps a network that decides sharply on the edge
    of its decision, where it magnifies the rounding of float32 beyond what any track does.
    """
    steps = max(length, TrapezoidConfig().shortest)
    flights = simulate_trapezoid(TrapezoidConfig(tracks=batch, seed=seed, shortest=steps, longest=steps, labels=False))
    measurements = flights[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64).reshape(batch, steps, -1)
    start = int(np.random.default_rng(seed).integers(steps - length, endpoint=True))
    return track_features(measurements[:, start : start + length])


def _check_signature(graph: onnx.ModelProto) -> None:
    axes = {REENTRY_LSTM.inputs[0].name: [BATCH_AXIS, TIME_AXIS, len(FEATURES)]}
    axes |= {REENTRY_LSTM.outputs[0].name: [BATCH_AXIS, TIME_AXIS], REENTRY_LSTM.outputs[1].name: [BATCH_AXIS, 1]}
    for side, declared, found in (
        ("inputs", REENTRY_LSTM.inputs, graph.graph.input),
        ("outputs", REENTRY_LSTM.outputs, graph.graph.output),
    ):
        _expect("names", side, [tensor.name for tensor in declared], [value.name for value in found])
        for tensor, value in zip(declared, found, strict=True):
            _expect("axes", tensor.name, axes[tensor.name], _axes(value))
            _expect("type", tensor.name, _type_name(tensor), value.type.tensor_type.elem_type)


def _axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _type_name(tensor: Tensor) -> int:
    return _ONNX_TYPES[tensor.dtype]


def _expect(check: str, where: str, expected: object, got: object) -> None:
    if expected != got:
        raise ExportError(
            f"the exported graph fails the check of {check}", where=where, expected=str(expected), got=str(got)
        )


def _run(
    session: onnxruntime.InferenceSession, features: npt.NDArray[np.float32], version: int, where: str
) -> npt.NDArray[np.float32]:
    """Probabilities (B, T), after the checks that need no reference."""
    try:
        probability, versions = session.run(None, {REENTRY_LSTM.inputs[0].name: features})
    except Exception as error:  # onnxruntime's errors share no base of their own
        raise ExportError(f"the exported graph does not run: {error}", where=where) from error
    _expect("shapes", where, features.shape[:2], probability.shape)
    _expect("version", where, [[version]] * len(features), versions.tolist())
    if not np.isfinite(probability).all():
        raise ExportError("the exported graph gives values that are not finite", where=where)
    return np.asarray(probability, dtype=np.float32)


def _difference(
    check: str,
    where: str,
    got: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    tolerance: float,
) -> float:
    """Largest absolute difference, refused above the tolerance."""
    differences = np.abs(got.astype(np.float64) - expected)
    largest = float(differences.max())
    if largest > tolerance:
        track, step = np.unravel_index(differences.argmax(), differences.shape)
        raise ExportError(
            f"the exported graph fails the check of {check}",
            where=f"{where}, track {track}, step {step}",
            expected=f"a difference of at most {tolerance:g}",
            got=f"{largest:.3g} ({got[track, step]:.6f} for {expected[track, step]:.6f})",
        )
    return largest
