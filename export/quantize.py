"""Quantises fp32 ONNX graphs to int8: the weights of the LSTM and of the linear layers, with ONNX Runtime.

Dynamic quantisation stores int8 weights with one scale per channel, and finds the range of activations at each call.
Static quantisation fixes these ranges from calibration flights. ONNX Runtime has no static kernel for an LSTM: its
weights are int8 in the file, but it computes in fp32. `perf.formats.calibration` measures the effect.

The prior of the orbit filter stays fp32, because the small probabilities in it would become 0.
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
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.graphs import metadata_of, strip
from export.sessions import Array
from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.schema import FEATURES_TENSOR

_QUANTISED: Final = ("LSTM", "MatMul", "Gemm")
_PRIOR_NODE: Final = "prior"
"""Name that the multiplication by the prior of the orbit filter gets for the quantiser."""
_PRIOR_SHAPE: Final = [len(SPEEDS), len(COEFFICIENTS)]


def dynamic_int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights and dynamic ranges."""
    with _prepared(graph) as (source, target):
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=[_PRIOR_NODE],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return _described(onnx.load(target), graph)


def static_int8(graph: onnx.ModelProto, calibration: Sequence[Array]) -> onnx.ModelProto:
    """The graph over whole tracks with int8 weights and static ranges.

    Args:
        graph: fp32 graph over whole tracks.
        calibration: features (B, T, F) of flights that resemble the training data.
    """
    with _prepared(graph) as (source, target):
        quantize_static(
            source,
            target,
            _Flights(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=[_PRIOR_NODE],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        return _described(onnx.load(target), graph)


class _Flights(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, features: Sequence[Array]) -> None:
        self._remaining = iter(features)

    def get_next(self) -> dict[str, Array] | None:
        """Inputs of the next call; None after the last one."""
        features = next(self._remaining, None)
        return None if features is None else {FEATURES_TENSOR.name: features}


@contextmanager
def _prepared(graph: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    """Paths of the preprocessed graph and of the quantised graph, with the quantiser's log output suppressed."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it warns that the graph should be preprocessed, which is done below
    try:
        with tempfile.TemporaryDirectory(prefix="reentry-int8-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original, prepared = Path(folder) / "original.onnx", Path(folder) / "prepared.onnx"
            onnx.save(graph, original)
            quant_pre_process(original, prepared, skip_symbolic_shape=True)
            _name_prior(prepared)
            yield prepared, Path(folder) / "int8.onnx"
    finally:
        logging.root.setLevel(level)


def _name_prior(path: Path) -> None:
    """Name the multiplication by the prior in a graph file, if there is one."""
    model = onnx.load(path)
    priors = {tensor.name for tensor in model.graph.initializer if list(tensor.dims) == _PRIOR_SHAPE}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in priors:
            node.name = _PRIOR_NODE
    onnx.save(model, path)


def _described(quantised: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    strip(quantised)
    onnx.helper.set_model_props(quantised, metadata_of(source) | {"precision": "int8"})
    onnx.checker.check_model(quantised)
    return quantised
