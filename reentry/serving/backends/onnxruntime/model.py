"""Triton's `onnxruntime` backend in Python, for a server without the C++ backend.

It gives a config.pbtxt for the C++ backend the same meaning. A setting that it does not support is an error at load.

Shapes: B tracks of a request. The other axes depend on the model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as pb_utils

from reentry.serving.backends.onnxruntime.sequences import SequenceStates
from reentry.serving.backends.onnxruntime.settings import (
    SettingError,
    open_session,
    providers,
    refuse_unsupported,
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
        """Load the graph, compare it with the configuration, and run it once for each warm-up sample.

        Raises:
            TritonModelException: the file is missing or invalid, the graph differs from the configuration, the graph
                does not run, or a setting is not supported.
        """
        config = json.loads(args["model_config"])
        self._batched = int(config["max_batch_size"]) > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        path = Path(args["model_repository"]) / args["model_version"] / _file_name(config)
        try:
            refuse_unsupported(config)
            self._sequences = SequenceStates(config, pb_utils.triton_string_to_numpy)
            where = providers(args["model_instance_kind"], args["model_instance_device_id"])
            self._session = open_session(path, config, where)
        except SettingError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        except Exception as error:  # onnxruntime's errors have no other base class
            raise pb_utils.TritonModelException(f"{path} is not a valid ONNX model: {_first_line(error)}") from None
        self._run_options = run_options(config)
        config["input"] += self._sequences.inputs
        config["output"] += self._sequences.outputs
        self._graph_inputs = [tensor["name"] for tensor in config["input"]]
        self._graph_outputs = [tensor["name"] for tensor in config["output"]]
        _compare("input", config["input"], self._session.get_inputs(), batched=self._batched)
        _compare("output", config["output"], self._session.get_outputs(), batched=self._batched)
        for arrays in _warm_up_inputs(config, self._session.get_inputs(), batched=self._batched):
            try:
                self._run_session(arrays)
            except Exception as error:
                # Triton 2.51 crashes if a warm-up fails, but survives a model that fails to load.
                raise pb_utils.TritonModelException(f"{path} does not run: {_first_line(error)}") from None

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer requests in batches of equal shape, joined and split along the first axis."""
        inputs: list[list[Array]] = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
            for request in requests
        ]
        rows: dict[int, int] = {}
        groups: defaultdict[object, list[int]] = defaultdict(list)
        responses: dict[int, pb_utils.InferenceResponse] = {}
        for index, arrays in enumerate(inputs):
            try:
                rows[index] = self._sequences.row(requests[index])
            except ValueError as error:
                invalid = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                responses[index] = pb_utils.InferenceResponse(error=invalid)
            else:
                groups[tuple(array.shape[1:] for array in arrays) if self._batched else index].append(index)
        for members in groups.values():
            states = self._sequences.before([rows[index] for index in members])
            try:
                outputs, states = self._run([inputs[index] for index in members], states)
            except Exception as error:  # onnxruntime's, for a graph that fails on these values
                failure = pb_utils.TritonError(f"onnxruntime: {_first_line(error)}", pb_utils.TritonError.INTERNAL)
                responses.update({index: pb_utils.InferenceResponse(error=failure) for index in members})
            else:
                self._sequences.keep([requests[index] for index in members], states)
                for index, arrays in zip(members, outputs, strict=True):
                    responses[index] = self._response(requests[index], arrays)
        return [responses[index] for index in range(len(requests))]

    def _run(self, requests: list[list[Array]], states: list[Array]) -> tuple[list[list[Array]], list[Array]]:
        """Run requests as one batch, and return the outputs of each request and the next states of all."""
        count = len(self._outputs)
        if len(requests) == 1:
            outputs = self._run_session(requests[0] + states)
            return [outputs[:count]], outputs[count:]
        joined = [np.concatenate(arrays) for arrays in zip(*requests, strict=True)]
        sizes = [len(arrays[0]) for arrays in requests]
        outputs = self._run_session(joined + states)
        for name, output in zip(self._graph_outputs, outputs, strict=True):
            if len(output) != sum(sizes):
                raise ValueError(
                    f"output {name}: expected {sum(sizes)} rows, one for each track of the batch. Got: {len(output)}"
                )
        borders = [0, *np.cumsum(sizes).tolist()]
        parts = [slice(begin, end) for begin, end in pairwise(borders)]
        return [[output[part] for output in outputs[:count]] for part in parts], outputs[count:]

    def _run_session(self, arrays: list[Array]) -> list[Array]:
        outputs: list[Array] = self._session.run(
            self._graph_outputs, dict(zip(self._graph_inputs, arrays, strict=True)), self._run_options
        )
        return outputs

    def _response(self, request: pb_utils.InferenceRequest, arrays: list[Array]) -> pb_utils.InferenceResponse:
        requested = set(request.requested_output_names())
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, a) for name, a in zip(self._outputs, arrays, strict=True) if name in requested]
        )

    def finalize(self) -> None:
        """Release the graph and its memory."""
        del self._session


def _file_name(config: dict[str, Any]) -> str:
    return config.get("default_model_filename") or "model.onnx"


def _warm_up_inputs(
    config: dict[str, Any], graph: Sequence[onnxruntime.NodeArg], *, batched: bool
) -> list[list[Array]]:
    """Return zeros in the shapes of each warm-up sample. Without samples, each dynamic axis has size 2."""
    types = {tensor["name"]: pb_utils.triton_string_to_numpy(tensor["data_type"]) for tensor in config["input"]}
    shapes = []
    for sample in config.get("model_warmup", []):
        rows = [int(sample["batch_size"])] if batched else []
        shapes.append(
            {name: rows + [int(size) for size in tensor["dims"]] for name, tensor in sample["inputs"].items()}
        )
    if not shapes:
        shapes = [{node.name: [size if isinstance(size, int) else 2 for size in node.shape] for node in graph}]
    return [
        [np.zeros(sample[name], types[name]) for name in types] for sample in shapes if types.keys() <= sample.keys()
    ]


def _compare(
    kind: str, configured: list[dict[str, Any]], graph: Sequence[onnxruntime.NodeArg], *, batched: bool
) -> None:
    """Compare the tensors of the configuration with those of the graph.

    The configuration must list every input of the graph, but may omit outputs.

    Raises:
        TritonModelException: they differ.
    """
    by_name = {node.name: node for node in graph}
    for tensor in configured:
        name = tensor["name"]
        if name not in by_name:
            raise pb_utils.TritonModelException(
                f"{kind} {name}: expected a tensor of the graph, {', '.join(sorted(by_name))}. Got: {name}"
            )
        node = by_name[name]
        expected_type = _ONNX_TYPES.get(tensor["data_type"])
        if node.type != expected_type:
            raise pb_utils.TritonModelException(
                f"{kind} {name}: expected {tensor['data_type']} as configured. Got: {node.type} in the graph"
            )
        dims = [int(size) for size in tensor["dims"]]
        expected = [-1, *dims] if batched else dims
        got = [size if isinstance(size, int) else -1 for size in node.shape]
        if len(got) != len(expected) or any(g not in (-1, e) for g, e in zip(got, expected, strict=True)):
            raise pb_utils.TritonModelException(
                f"{kind} {name}: expected shape {expected} as configured. Got: {got} in the graph"
            )
    missing = sorted(set(by_name) - {tensor["name"] for tensor in configured})
    if kind == "input" and missing:
        raise pb_utils.TritonModelException(f"inputs {', '.join(missing)} of the graph are not configured")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
