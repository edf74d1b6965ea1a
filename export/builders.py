"""Builds the files of each format from a checkpoint, and says what a machine lacks to do so."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import onnx
import onnxruntime

from export.graphs import Precision, step_graph, whole_graph
from export.quantize import dynamic_int8
from export.scan_graph import scan_graph
from export.sessions import DerivedSessions, OnnxSession, ScanSession, Session, StreamSession, TrackSession
from export.stream_graph import stream_graph
from export.tensorrt.config import TensorRTConfig
from export.track_graph import track_graph
from reentry.errors import ExportError
from reentry.schema import (
    ENSEMBLE,
    REENTRY_SCAN,
    SCAN_GRAPH,
    STREAM_GRAPH,
    TRACK_GRAPH,
    TRACK_MONITOR,
    DerivedModel,
)
from registry.formats import FORMATS, Format
from training.checkpoint import Checkpoint

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


def missing(export_format: Format) -> str | None:
    """What this machine lacks to build and verify a format, with the fix, on one line; None if nothing is missing."""
    if export_format is Format.ONNX_FP16 and CUDA not in onnxruntime.get_available_providers():
        return (
            "ONNX Runtime has no CUDA here, and its CPU provider crashes on an fp16 LSTM, so the format cannot be "
            "verified; fix: export on a machine with an NVIDIA GPU and `make setup GPU=1`"
        )
    if export_format is Format.TENSORRT:
        from export.tensorrt import engines

        return engines.missing()
    return None


def build(export_format: Format, checkpoint: Checkpoint, version: int, folder: Path, config: TensorRTConfig) -> Session:
    """Write the graphs of a format, and load those over features.

    Args:
        export_format: a format for which `missing` returns None.
        checkpoint: the trained network.
        version: version number that the graphs return.
        folder: destination of the files that `registry.formats.FORMATS` names.
        config: settings of TensorRT engines.

    Raises:
        ExportError: the network is not an LSTM, or TensorRT failed.
    """
    spec = FORMATS[export_format]
    whole, step = folder / spec.whole_file, folder / spec.step_file
    if export_format is Format.TORCHSCRIPT:
        from export.torch_session import save_torchscript, torchscript_session

        save_torchscript(checkpoint, version, whole, step)
        return torchscript_session(whole, step)
    if export_format is Format.TENSORRT:
        from export.tensorrt import engines

        with tempfile.TemporaryDirectory(prefix="reentry-engine-") as scratch:
            graphs = Path(scratch, "model.onnx"), Path(scratch, "step.onnx")
            _save_onnx(checkpoint, version, *graphs, "fp16" if config.fp16 else "fp32")
            return engines.build(*graphs, folder, config)
    half = export_format is Format.ONNX_FP16
    _save_onnx(checkpoint, version, whole, step, "fp16" if half else "fp32")
    if export_format is Format.ONNX_INT8:
        for path in (whole, step):
            onnx.save(dynamic_int8(onnx.load(path)), path)
    return OnnxSession(whole, step, providers=(CUDA, CPU) if half else (CPU,))


def build_derived(
    export_format: Format, checkpoint: Checkpoint, version: int, folder: Path
) -> tuple[DerivedSessions | None, tuple[str, ...]]:
    """Write the graphs of the derived models of a format, and load them.

    Their network has int8 weights in the format int8, and fp32 weights in all others: it runs on CPUs, where ONNX
    Runtime cannot run an fp16 LSTM.

    Returns:
        The graphs, None for a format that is not served; and a warning for each graph that is left out.

    Raises:
        ExportError: the network is not an LSTM.
    """
    if not FORMATS[export_format].derived:
        return None, ()

    def save(derived: DerivedModel, graph: onnx.ModelProto) -> Path:
        path = folder / derived.file
        onnx.save(dynamic_int8(graph) if export_format is Format.ONNX_INT8 else graph, path)
        return path

    scan = ScanSession(save(SCAN_GRAPH, scan_graph(checkpoint, version)))
    if checkpoint.model_config.uses_orbit:
        reason = (
            "its network uses orbit features, which no ONNX graph computes; "
            f"{ENSEMBLE.name} serves whole tracks of this version, and {REENTRY_SCAN.name} live ones"
        )
        return DerivedSessions(None, scan, None), tuple(
            _left_out(graph, reason) for graph in (TRACK_GRAPH, STREAM_GRAPH)
        )
    track = TrackSession(save(TRACK_GRAPH, track_graph(checkpoint, version)))
    try:
        graph = stream_graph(checkpoint, version)
    except ExportError as error:  # the network is too large; it is an LSTM, because the other graphs were exported
        return DerivedSessions(track, scan, None), (_left_out(STREAM_GRAPH, str(error)),)
    return DerivedSessions(track, scan, StreamSession(save(STREAM_GRAPH, graph))), ()


def _left_out(derived: DerivedModel, reason: str) -> str:
    """Return the warning that a graph is not exported."""
    models = " and ".join(model.name for model in derived.served_with if model is not TRACK_MONITOR)
    return f"{derived.file} is left out, so {models} cannot serve this version: {reason}"


def _save_onnx(checkpoint: Checkpoint, version: int, whole: Path, step: Path, precision: Precision) -> None:
    onnx.save(whole_graph(checkpoint, version, precision), whole)
    onnx.save(step_graph(checkpoint, version, precision), step)
