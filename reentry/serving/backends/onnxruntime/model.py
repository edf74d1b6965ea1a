"""Triton's `onnxruntime` backend in Python, for a server that lacks the C++ one.

A config.pbtxt written for the C++ backend means the same here, or is refused: a setting that is not honoured is an
error at load, never silence.

Shapes: B tracks of a request; the other axes are the model's own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as pb_utils

from reentry.serving.backends.onnxruntime.settings import (
    SettingError,
    open_session,
    providers,
    refuse_unhonoured,
    run_options,
)

Array = npt.NDArray[Any]

_ONNX_TYPES: Final = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}


class TritonPythonModel:
    """One instance of one version of an ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph, hold it against the configuration, and run it once for each warm-up sample.

        Raises:
            TritonModelException: the file is missing or broken, the graph and the configuration differ, the graph does
                not run, or the configuration asks for what this backend does not do.
        """
        config = json.loads(args["model_config"])
        self._batches = int(config["max_batch_size"]) > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        path = Path(args["model_repository"]) / args["model_version"] / _file_name(config)
        try:
            refuse_unhonoured(config)
            where = providers(args["model_instance_kind"], args["model_instance_device_id"])
            self._session = open_session(path, config, where)
        except SettingError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        except Exception as error:  # onnxruntime's errors have no base but Exception
            raise pb_utils.TritonModelException(f"{path} is no ONNX model that can run: {_first_line(error)}") from None
        self._run_options = run_options(config)
        _compare("input", config["input"], self._session.get_inputs(), batches=self._batches)
        _compare("output", config["output"], self._session.get_outputs(), batches=self._batches)
        for arrays in _trial_inputs(config, self._session.get_inputs(), batches=self._batches):
            try:
                self._run_session(arrays)
            except Exception as error:
                # Triton 2.51 dies of a warm-up that fails; a model that fails to load leaves it as it was.
                raise pb_utils.TritonModelException(f"{path} does not run: {_first_line(error)}") from None

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request. Those of equal shape run as one batch, joined and split along the first axis."""
        inputs: list[list[Array]] = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
            for request in requests
        ]
        groups: defaultdict[object, list[int]] = defaultdict(list)
        for index, arrays in enumerate(inputs):
            groups[tuple(array.shape[1:] for array in arrays) if self._batches else index].append(index)
        answers: dict[int, pb_utils.InferenceResponse] = {}
        for members in groups.values():
            try:
                outputs = self._run([inputs[index] for index in members])
            except Exception as error:  # of onnxruntime: a graph that fails on these values
                failure = pb_utils.TritonError(f"onnxruntime: {_first_line(error)}", pb_utils.TritonError.INTERNAL)
                answers.update({index: pb_utils.InferenceResponse(error=failure) for index in members})
            else:
                for index, arrays in zip(members, outputs, strict=True):
                    answers[index] = self._response(requests[index], arrays)
        return [answers[index] for index in range(len(requests))]

    def _run(self, requests: list[list[Array]]) -> list[list[Array]]:
        """Inputs of each request -> outputs of each request."""
        if len(requests) == 1:
            return [self._run_session(requests[0])]
        joined = [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]
        sizes = [len(arrays[0]) for arrays in requests]
        outputs = self._run_session(joined)
        for name, output in zip(self._outputs, outputs, strict=True):
            if len(output) != sum(sizes):
                raise ValueError(
                    f"output {name}: expected {sum(sizes)} rows, one for each of the batch. Got: {len(output)}"
                )
        borders = np.cumsum(sizes)[:-1]
        return [list(arrays) for arrays in zip(*(np.split(output, borders) for output in outputs), strict=True)]

    def _run_session(self, arrays: list[Array]) -> list[Array]:
        outputs: list[Array] = self._session.run(
            self._outputs, dict(zip(self._inputs, arrays, strict=True)), self._run_options
        )
        return outputs

    def _response(self, request: pb_utils.InferenceRequest, arrays: list[Array]) -> pb_utils.InferenceResponse:
        wanted = set(request.requested_output_names())
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, a) for name, a in zip(self._outputs, arrays, strict=True) if name in wanted]
        )

    def finalize(self) -> None:
        """Let go of the graph and its arena."""
        del self._session


def _file_name(config: dict[str, Any]) -> str:
    return config.get("default_model_filename") or "model.onnx"


def _trial_inputs(config: dict[str, Any], graph: Sequence[onnxruntime.NodeArg], *, batches: bool) -> list[list[Array]]:
    """Zeros for the graph's inputs in the shape of each warm-up sample; without samples, with 2 for each free axis."""
    types = {tensor["name"]: pb_utils.triton_string_to_numpy(tensor["data_type"]) for tensor in config["input"]}
    shapes = []
    for sample in config.get("model_warmup", []):
        rows = [int(sample["batch_size"])] if batches else []
        shapes.append({name: rows + [int(size) for size in given["dims"]] for name, given in sample["inputs"].items()})
    if not shapes:
        shapes = [{node.name: [size if isinstance(size, int) else 2 for size in node.shape] for node in graph}]
    return [
        [np.zeros(sample[name], types[name]) for name in types] for sample in shapes if types.keys() <= sample.keys()
    ]


def _compare(
    kind: str, configured: list[dict[str, Any]], graph: Sequence[onnxruntime.NodeArg], *, batches: bool
) -> None:
    """Raise TritonModelException where tensors of the configuration and of the graph differ.

    Every input of the graph must be configured; outputs may be left out.
    """
    by_name = {node.name: node for node in graph}
    for tensor in configured:
        name = tensor["name"]
        if name not in by_name:
            raise pb_utils.TritonModelException(
                f"{kind} {name}: expected one of the graph's, {', '.join(sorted(by_name))}. Got: {name}"
            )
        node = by_name[name]
        expected_type = _ONNX_TYPES.get(tensor["data_type"])
        if node.type != expected_type:
            raise pb_utils.TritonModelException(
                f"{kind} {name}: expected {tensor['data_type']} as configured. Got: {node.type} in the graph"
            )
        dims = [int(size) for size in tensor["dims"]]
        expected = [-1, *dims] if batches else dims
        got = [size if isinstance(size, int) else -1 for size in node.shape]
        fits = len(got) == len(expected) and all(g in (-1, e) for g, e in zip(got, expected, strict=True))
        if not fits:
            raise pb_utils.TritonModelException(
                f"{kind} {name}: expected shape {expected} as configured. Got: {got} in the graph"
            )
    missing = sorted(set(by_name) - {tensor["name"] for tensor in configured})
    if kind == "input" and missing:
        raise pb_utils.TritonModelException(f"inputs {', '.join(missing)} of the graph are not configured")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
