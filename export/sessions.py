"""The common interface to every loaded format: run whole tracks, or run one step with its LSTM state.

This module does not import torch, because the server's image checks TensorRT engines without it.

Shapes: B tracks, T steps, F features, L layers, H hidden units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from reentry import schema

Array = npt.NDArray[Any]

_WHOLE_OUTPUTS: Final = [schema.PROBABILITY.name, schema.MODEL_VERSION.name]
_STEP_OUTPUTS: Final = [tensor.name for tensor in schema.REENTRY_STEP.outputs]


class Carried(NamedTuple):
    """LSTM state that one step passes to the next. The batch axis comes first, as in Triton."""

    hidden: Array
    """Hidden state (B, L, H), float32."""
    cell: Array
    """Cell state (B, L, H), float32."""


def no_state(batch: int, layers: int, hidden: int) -> Carried:
    """The zero state at the start of a track."""
    return Carried(np.zeros((batch, layers, hidden), np.float32), np.zeros((batch, layers, hidden), np.float32))


class Session(Protocol):
    """A loaded format."""

    step_limit: int | None
    """Largest number of steps that the gate runs one by one; None if there is no limit."""

    def whole(self, features: Array) -> tuple[Array, Array]:
        """Features (B, T, F) float32 -> probability (B, T) float32 and model version (B, 1) int64."""

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """Features (B, F) float32 and state -> probability (B, 1), next state, and model version (B, 1) int64."""


def live_steps(session: Session, rows: Sequence[Array], start: Carried) -> Iterator[Array]:
    """Run one step at each `next`, with the state of the previous step, without end.

    Args:
        session: the loaded format.
        rows: features (B, F) float32 of each step of B tracks. After the last step the tracks start over.
        start: state before the first step.

    Yields:
        The probability (B, 1) of each step.
    """
    while True:
        state = start
        for row in rows:
            probability, state, _ = session.step(row, state)
            yield probability


class NamedTensorSession(ABC):
    """A `Session` over two graphs whose inputs and outputs are addressed by tensor name."""

    step_limit: int | None = None

    def __init__(self, whole: Any, step: Any) -> None:
        self._whole, self._step = whole, step

    @abstractmethod
    def _run(self, graph: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        """Run one of the two graphs on contiguous float32 inputs and return the named outputs in order."""

    def whole(self, features: Array) -> tuple[Array, Array]:
        """See `Session.whole`."""
        inputs = {schema.FEATURES_TENSOR.name: np.ascontiguousarray(features, np.float32)}
        probability, version = self._run(self._whole, inputs, _WHOLE_OUTPUTS)
        return probability, version

    def step(self, features: Array, state: Carried) -> tuple[Array, Carried, Array]:
        """See `Session.step`."""
        inputs = {
            schema.STEP_FEATURES.name: np.ascontiguousarray(features, np.float32),
            schema.HIDDEN_STATE.name: np.ascontiguousarray(state.hidden, np.float32),
            schema.CELL_STATE.name: np.ascontiguousarray(state.cell, np.float32),
        }
        probability, hidden, cell, version = self._run(self._step, inputs, _STEP_OUTPUTS)
        return probability, Carried(hidden, cell), version


class _Graph:
    """A graph of a derived model, run by ONNX Runtime."""

    def __init__(
        self, path: Path, model: schema.Model, *, threads: int, providers: tuple[str, ...] = ("CPUExecutionProvider",)
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._names = [tensor.name for tensor in model.outputs]
        self._graph = onnxruntime.InferenceSession(path, options, providers=list(providers))

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name -> outputs by name."""
        return dict(zip(self._names, self._graph.run(self._names, inputs), strict=True))


class TrackSession(_Graph):
    """The graph from measurements to onsets."""

    def __init__(self, path: Path, *, threads: int = 1, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> None:
        super().__init__(path, schema.REENTRY_TRACK, threads=threads, providers=providers)

    def run(self, measurements: Array, track_length: Array) -> dict[str, Array]:
        """Score measurements (B, T, M) float64 of tracks with lengths (B,).

        Returns:
            The outputs of `schema.REENTRY_TRACK` by name.
        """
        return self._run(
            {
                schema.MEASUREMENTS.name: np.ascontiguousarray(measurements, np.float64),
                schema.TRACK_LENGTH.name: np.asarray(track_length, np.int32)[:, None],
            }
        )


class StreamSession(_Graph):
    """The graph of a live track."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, schema.REENTRY_STREAM, threads=1)

    def run(self, measurement: Array, state: Array) -> dict[str, Array]:
        """One measurement (B, M) float64 of each track and its state -> outputs of `schema.REENTRY_STREAM` by name."""
        first = np.ascontiguousarray(measurement, np.float64)
        return self._run({schema.MEASUREMENT.name: first, schema.STREAM_STATE.name: state})


class ScanSession(_Graph):
    """The graph of many live tracks."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, schema.SCAN_STEP, threads=1)

    def run(self, features: Array, state: Array) -> dict[str, Array]:
        """Features (B, F) float32 of one step of each track and its state -> outputs of `schema.SCAN_STEP` by name."""
        first = np.ascontiguousarray(features, np.float32)
        return self._run({schema.STEP_FEATURES.name: first, schema.RECURRENT_STATE.name: state})


class DerivedSessions(NamedTuple):
    """The graphs of the derived models of a version."""

    track: TrackSession | None
    """None if the network uses features that no graph computes."""
    scan: ScanSession
    stream: StreamSession | None
    """None if the network is too large for this graph, or uses features that no graph computes."""


class OnnxSession(NamedTensorSession):
    """Both ONNX graphs of a version, run by ONNX Runtime."""

    def __init__(
        self, whole: Path, step: Path, *, threads: int = 1, providers: tuple[str, ...] = ("CPUExecutionProvider",)
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        super().__init__(
            *(onnxruntime.InferenceSession(path, options, providers=list(providers)) for path in (whole, step))
        )

    def _run(self, graph: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        answer: Sequence[Array] = graph.run(outputs, inputs)
        return answer
