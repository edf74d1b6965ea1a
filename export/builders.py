"""How each format is made of a checkpoint, and what a machine must have for it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx
import onnxruntime

from export.graphs import Precision, step_graph, whole_graph
from export.quantize import dynamic_int8
from export.sessions import OnnxSession, Session
from export.tensorrt.config import TensorRTConfig
from registry.formats import FORMATS, Format, FormatSpec
from training.checkpoint import Checkpoint

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


def missing(format: Format) -> str | None:  # noqa: A002  # the field's word
    """Why this machine cannot make and verify a format, with what to do, on one line; None where it can."""
    if format is Format.ONNX_FP16 and CUDA not in onnxruntime.get_available_providers():
        return (
            "ONNX Runtime has no CUDA here, and its CPU provider ends the process on an fp16 LSTM, so that "
            "nothing could be verified; fix: export on a machine with an NVIDIA GPU and `make setup GPU=1`"
        )
    if format is Format.TENSORRT:
        from export.tensorrt import engines

        return engines.missing()
    return None


def build(
    format: Format,  # noqa: A002
    checkpoint: Checkpoint,
    version: int,
    folder: Path,
    config: TensorRTConfig,
) -> Session:
    """Write both graphs of a format into `folder` and load them.

    Args:
        format: one that this machine lacks nothing for, see `missing`.
        checkpoint: of the network.
        version: the number that the graph over whole tracks answers with.
        folder: takes the files of `formats.FORMATS`.
        config: of engines.

    Raises:
        ExportError: TensorRT's own reason.
    """
    return _BUILDERS[format](FORMATS[format], checkpoint, version, folder, config)


def _fp32(spec: FormatSpec, checkpoint: Checkpoint, version: int, folder: Path, _: TensorRTConfig) -> Session:
    return OnnxSession(*_save(checkpoint, version, folder, spec, "fp32"))


def _fp16(spec: FormatSpec, checkpoint: Checkpoint, version: int, folder: Path, _: TensorRTConfig) -> Session:
    return OnnxSession(*_save(checkpoint, version, folder, spec, "fp16"), providers=(CUDA, CPU))


def _int8(spec: FormatSpec, checkpoint: Checkpoint, version: int, folder: Path, _: TensorRTConfig) -> Session:
    paths = _save(checkpoint, version, folder, spec, "fp32")
    for path in paths:
        onnx.save(dynamic_int8(onnx.load(path)), path)
    return OnnxSession(*paths)


def _torchscript(spec: FormatSpec, checkpoint: Checkpoint, version: int, folder: Path, _: TensorRTConfig) -> Session:
    from export.torchscript import save_torchscript, torchscript_runner

    paths = folder / spec.whole_file, folder / spec.step_file
    save_torchscript(checkpoint, version, *paths)
    return torchscript_runner(*paths)


def _tensorrt(_: FormatSpec, checkpoint: Checkpoint, version: int, folder: Path, config: TensorRTConfig) -> Session:
    from export.tensorrt import engines

    with tempfile.TemporaryDirectory(prefix="reentry-engine-") as scratch:
        precision: Precision = "fp16" if config.fp16 else "fp32"
        paths = _save(checkpoint, version, Path(scratch), FORMATS[Format.ONNX], precision)
        return engines.build(*paths, folder, config)


def _save(
    checkpoint: Checkpoint, version: int, folder: Path, spec: FormatSpec, precision: Precision
) -> tuple[Path, Path]:
    whole, step = folder / spec.whole_file, folder / spec.step_file
    onnx.save(whole_graph(checkpoint, version, precision), whole)
    onnx.save(step_graph(checkpoint, version, precision), step)
    return whole, step


_BUILDERS: Final[dict[Format, Callable[[FormatSpec, Checkpoint, int, Path, TensorRTConfig], Session]]] = {
    Format.ONNX: _fp32,
    Format.ONNX_FP16: _fp16,
    Format.ONNX_INT8: _int8,
    Format.TORCHSCRIPT: _torchscript,
    Format.TENSORRT: _tensorrt,
}
