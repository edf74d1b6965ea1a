"""Builds TensorRT engines from ONNX graphs, with `trtexec` or the `tensorrt` package, and caches them.

An engine fits one GPU model and one TensorRT version, so it is built on a machine like the one that serves it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import onnx

from export.sessions import Session
from export.tensorrt.config import TensorRTConfig, step_shapes, whole_shapes
from export.tensorrt.trtexec import ENVIRONMENT_VARIABLE, Trtexec, find_trtexec
from reentry.errors import ExportError
from reentry.runtime.files import whole_file
from reentry.schema import HIDDEN_STATE
from registry.formats import FORMATS, Format

_SPEC: Final = FORMATS[Format.TENSORRT]
_STRONGLY_TYPED: Final = 11
"""First major TensorRT version that takes the precision from the graph alone."""


class EngineBuilder(Protocol):
    """A TensorRT installation that builds engines and runs them."""

    version: str
    """TensorRT version, such as 10.16.2."""

    def build(self, graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> None:
        """Build `engine` from the ONNX file `graph`, with one profile of minimum, optimal and maximum shapes.

        Raises:
            ExportError: the build failed, or this TensorRT version has no flag for the requested precision.
        """

    def load(self, whole: Path, step: Path) -> Session:
        """Load both engines of a version."""


class Gpu(NamedTuple):
    """The GPU that an engine is built for."""

    name: str
    compute_capability: str
    driver: str


def find_gpu() -> Gpu | None:
    """The first GPU that nvidia-smi shows; None without a GPU."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    fields = [field.strip() for field in (answer.splitlines() or [""])[0].split(",")]
    return Gpu(*fields) if len(fields) == 3 else None


def missing() -> str | None:
    """What this machine lacks to build an engine, with the fix, on one line; None if nothing is missing."""
    lacks = []
    if find_trtexec() is None and not _has_package():
        lacks.append("neither trtexec nor the tensorrt package is installed")
    if find_gpu() is None:
        lacks.append("nvidia-smi shows no GPU")
    fix = f"export on a machine with both, set {ENVIRONMENT_VARIABLE} to the path of trtexec, or see docs/tensorrt.md"
    return f"{' and '.join(lacks)}; fix: {fix}" if lacks else None


def build(whole_onnx: Path, step_onnx: Path, folder: Path, config: TensorRTConfig) -> Session:
    """Build both engines, or take them from the cache, and load them.

    Args:
        whole_onnx: graph over whole tracks.
        step_onnx: graph over one step.
        folder: destination of the engines, under the file names of the TensorRT format.
        config: settings of the build.

    Raises:
        ExportError: the GPU or TensorRT is missing, or TensorRT failed.
    """
    lack, gpu = missing(), find_gpu()
    if lack is not None or gpu is None:
        raise ExportError(f"cannot build a TensorRT engine: {lack}")
    builder = _find_builder()
    layers, hidden = _state_shape(step_onnx)
    engines = folder / _SPEC.whole_file, folder / _SPEC.step_file
    for graph, engine, shapes in (
        (whole_onnx, engines[0], whole_shapes(config)),
        (step_onnx, engines[1], step_shapes(config, layers=layers, hidden=hidden)),
    ):
        cached = config.cache.expanduser() / f"{cache_key(graph, shapes, config, gpu, builder.version)}.plan"
        if not cached.is_file():
            # A strongly typed release has no flag for a precision that the graph already has.
            typed = _is_half(graph) and int(builder.version.partition(".")[0]) >= _STRONGLY_TYPED
            with whole_file(cached) as part:
                builder.build(graph, part, shapes, replace(config, fp16=False) if typed else config)
                if part.stat().st_size == 0:
                    raise ExportError("TensorRT wrote an empty engine", where=str(graph))
        shutil.copyfile(cached, engine)
    return builder.load(*engines)


def cache_key(graph: Path, shapes: Sequence[str], config: TensorRTConfig, gpu: Gpu, version: str) -> str:
    """Cache key of an engine: a hash of graph, shapes, precision, workspace, GPU, driver and TensorRT version."""
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    content = [digest, list(shapes), config.fp16, config.int8, config.workspace_mib, list(gpu), version]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _find_builder() -> EngineBuilder:
    path = find_trtexec()
    if path is not None:
        return Trtexec(path)
    from export.tensorrt.package import TensorRTPackage  # imports tensorrt

    return TensorRTPackage()


def _has_package() -> bool:
    return importlib.util.find_spec("tensorrt") is not None


def _is_half(graph: Path) -> bool:
    """Whether the graph has half-precision weights."""
    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in onnx.load(graph).graph.initializer)


def _state_shape(step_onnx: Path) -> tuple[int, int]:
    """Numbers of layers L and hidden units H of the step graph."""
    for tensor in onnx.load(step_onnx, load_external_data=False).graph.input:
        if tensor.name == HIDDEN_STATE.name:
            _, layers, hidden = (axis.dim_value for axis in tensor.type.tensor_type.shape.dim)
            return layers, hidden
    raise ExportError(f"step graph has no input {HIDDEN_STATE.name}", where=str(step_onnx))
