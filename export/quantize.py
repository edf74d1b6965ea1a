"""fp32 ONNX -> int8: weights of the LSTM and of the linear layers, by ONNX Runtime's quantiser.

Dynamic: weights are int8 in the file, one scale for each channel; what flows through the graph is quantised as it
comes, with the range of the call's own values. Static: these ranges are fixed from calibration flights. ONNX Runtime
has no static kernel for an LSTM: int8 in the file too, it computes in fp32; `perf.formats.calibration` shows what that
means.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.graphs import metadata_of, strip
from export.sessions import Array
from reentry.schema import FEATURES_TENSOR

_QUANTISED: Final = ("LSTM", "MatMul", "Gemm")


def dynamic_int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights, ranges found at each call."""
    with _prepared(graph) as (source, target):
        quantize_dynamic(
            source, target, op_types_to_quantize=list(_QUANTISED), per_channel=True, weight_type=QuantType.QInt8
        )
        return _described(onnx.load(target), graph)


def static_int8(graph: onnx.ModelProto, calibration: Sequence[Array]) -> onnx.ModelProto:
    """The graph over whole tracks with ranges fixed from `calibration`, features (B, T, F) of flights like the trained.

    The LSTM computes in fp32; see the module.
    """
    with _prepared(graph) as (source, target):
        quantize_static(
            source,
            target,
            _Flights(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        return _described(onnx.load(target), graph)


class _Flights(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, features: Sequence[Array]) -> None:
        self._left = iter(features)

    def get_next(self) -> dict[str, Array] | None:
        """The next call's inputs; None after the last."""
        features = next(self._left, None)
        return None if features is None else {FEATURES_TENSOR.name: features}


@contextmanager
def _prepared(graph: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    """Files of the graph as the quantiser wants it, and of what it makes; quietly."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises to do what is done here
    try:
        with tempfile.TemporaryDirectory(prefix="reentry-int8-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain, source = Path(folder) / "plain.onnx", Path(folder) / "source.onnx"
            onnx.save(graph, plain)
            quant_pre_process(plain, source, skip_symbolic_shape=True)
            yield source, Path(folder) / "int8.onnx"
    finally:
        logging.root.setLevel(level)


def _described(quantised: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    strip(quantised)
    onnx.helper.set_model_props(quantised, metadata_of(source) | {"precision": "int8"})
    onnx.checker.check_model(quantised)
    return quantised
