"""ONNX -> TensorRT engines, with trtexec or the tensorrt package, kept by all that they depend on.

An engine fits one model of GPU and one version of TensorRT: it is built where it is served.
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
from typing import Final, NamedTuple

from export.sessions import Session
from export.tensorrt.config import TensorRTConfig, step_shapes, whole_shapes
from export.tensorrt.trtexec import ENVIRONMENT_VARIABLE, Program, TrtexecSession, find_trtexec
from reentry.errors import ExportError
from reentry.runtime.files import whole_file
from reentry.schema import HIDDEN_STATE
from registry.formats import FORMATS, Format

_SPEC: Final = FORMATS[Format.TENSORRT]
_STRONGLY_TYPED: Final = 11
"""The release of TensorRT from which on precision is the graph's alone."""


class Gpu(NamedTuple):
    """The GPU that an engine is for."""

    name: str
    compute_capability: str
    driver: str


def find_gpu() -> Gpu | None:
    """The first GPU of this machine that the driver shows."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    fields = [field.strip() for field in (answer.splitlines() or [""])[0].split(",")]
    return Gpu(*fields) if len(fields) == 3 else None


def missing() -> str | None:
    """What this machine lacks to build an engine, and what to do; None where it lacks nothing."""
    lacks = []
    if find_trtexec() is None and not _has_package():
        lacks.append("neither trtexec nor the tensorrt package")
    if find_gpu() is None:
        lacks.append("no NVIDIA GPU that nvidia-smi shows")
    if not lacks:
        return None
    return (
        f"there is {' and '.join(lacks)} here; fix: export on a machine with both (trtexec in another place: "
        f"{ENVIRONMENT_VARIABLE}=PATH), or build on the cluster's nodes, see docs/tensorrt.md"
    )


def build(whole_onnx: Path, step_onnx: Path, folder: Path, config: TensorRTConfig) -> Session:
    """Build both engines into `folder`, under the names of the format, or take them from the cache.

    Returns:
        The engines, loaded.

    Raises:
        ExportError: something is missing here, or TensorRT's own reason for a failure.
    """
    lack, gpu = missing(), find_gpu()
    if lack is not None or gpu is None:
        raise ExportError(f"no TensorRT engine can be built: {lack}")
    layers, hidden = _state_shape(step_onnx)
    plans = (
        (whole_onnx, folder / _SPEC.whole_file, whole_shapes(config)),
        (step_onnx, folder / _SPEC.step_file, step_shapes(config, layers=layers, hidden=hidden)),
    )
    cache = config.cache.expanduser()
    path = find_trtexec()
    if path is not None:
        program = Program.ask(path)
        version = program.version

        def make(graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> None:
            timings = cache / f"{_hash(list(gpu), version)}.timings"
            program.run(program.build_command(graph, engine, shapes, config, timings))
    else:
        from export.tensorrt import package

        version = package.version()

        def make(graph: Path, engine: Path, shapes: Sequence[str], config: TensorRTConfig) -> None:
            package.build_engine(graph, engine, shapes, config)

    for graph, engine, shapes in plans:
        kept = cache / f"{key_of(graph, shapes, config, gpu, version)}.plan"
        if not kept.is_file():
            with whole_file(kept) as part:
                # A release that takes precision from the graph has no flag for what the graph is already.
                strong = _is_half(graph) and int(version.partition(".")[0]) >= _STRONGLY_TYPED
                make(graph, part, shapes, replace(config, fp16=False) if strong else config)
                if part.stat().st_size == 0:
                    raise ExportError("TensorRT wrote no engine", where=str(graph))
        shutil.copyfile(kept, engine)
    engines = (folder / _SPEC.whole_file, folder / _SPEC.step_file)
    return TrtexecSession(program, *engines) if path is not None else package.PackageSession(*engines)


def key_of(graph: Path, shapes: Sequence[str], config: TensorRTConfig, gpu: Gpu, version: str) -> str:
    """Name of an engine in the cache: another graph, setting, GPU, driver or TensorRT is another engine."""
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    return _hash(digest, list(shapes), config.fp16, config.int8, config.workspace_mib, list(gpu), version)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _has_package() -> bool:
    return importlib.util.find_spec("tensorrt") is not None


def _is_half(graph: Path) -> bool:
    """Whether the weights are half precision."""
    import onnx

    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in onnx.load(graph).graph.initializer)


def _state_shape(step_onnx: Path) -> tuple[int, int]:
    """L and H of the step graph."""
    import onnx

    graph = onnx.load(step_onnx, load_external_data=False).graph
    for tensor in graph.input:
        if tensor.name == HIDDEN_STATE.name:
            _, layers, hidden = (axis.dim_value for axis in tensor.type.tensor_type.shape.dim)
            return layers, hidden
    raise ExportError(f"the step graph has no input {HIDDEN_STATE.name}", where=str(step_onnx))
