"""Small ONNX models that are built in milliseconds: a causal LSTM with the tensors of `reentry_lstm`, and another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from numpy.random import default_rng
from onnx import TensorProto, helper, numpy_helper

from reentry import schema

HIDDEN = 8
Axes = list[str | int]
"""Sizes of a tensor: fixed numbers, and names of sizes that vary."""


def write_toy_model(path: Path, *, version: int, seed: int = 0, fault: Literal["run", "values"] | None = None) -> None:
    """Write features [B,T,F] -> reentry_probability [B,T], model_version [B,1].

    Args:
        path: the file.
        version: the version that the graph answers.
        seed: random seed of the weights.
        fault: "run" makes a graph that loads, but fails with more than 8 steps; "values" makes one whose probabilities
            are above 1.
    """
    generator = default_rng(seed)
    features = len(schema.FEATURES)
    simple = len(schema.SIMPLE_FEATURES)
    scales = {"altitude": 1e-5, "climb_rate": 1e-3, "ground_speed": 1e-4}
    weights = {
        # Selected, as in a real network: features that were not computed are NaN, and NaN times 0 is NaN.
        "chosen": np.arange(simple),
        "scale": np.array([scales.get(name, 1.0) for name in schema.SIMPLE_FEATURES], dtype=np.float32),
        "W": generator.normal(0, 0.8, (1, 4 * HIDDEN, simple)).astype(np.float32),
        "R": generator.normal(0, 0.4, (1, 4 * HIDDEN, HIDDEN)).astype(np.float32),
        "head": generator.normal(0, 4.0, (HIDDEN, 1)).astype(np.float32),
        "last": np.array([2], dtype=np.int64),
        "version": np.array([version], dtype=np.int64),
        "zero": np.array([0], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "directions": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["features", "chosen"], ["simple"], axis=2),
        helper.make_node("Mul", ["simple", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["by_time"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["by_time", "W", "R"], ["hidden_all"], hidden_size=HIDDEN),  # (T, 1, B, H)
        helper.make_node("Squeeze", ["hidden_all", "directions"], ["hidden_by_time"]),
        helper.make_node("Transpose", ["hidden_by_time"], ["hidden"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["hidden", "head"], ["logit_column"]),
        helper.make_node("Squeeze", ["logit_column", "last"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["reentry_probability"]),
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["version_shape"], axis=0),
        helper.make_node("Expand", ["version", "version_shape"], ["model_version"]),
    ]
    at = {node.output[0]: index for index, node in enumerate(nodes)}
    if fault == "run":
        weights["eight"] = np.ones(8, dtype=np.float32)
        nodes[at["by_time"]].input[0] = "scaled_by_ones"
        shape = nodes.pop(at["shape"])
        nodes[at["by_time"] : at["by_time"]] = [  # sorted: each node after its inputs
            shape,
            helper.make_node("Slice", ["shape", "one", "last"], ["steps"]),
            helper.make_node("Gather", ["eight", "steps"], ["ones"]),
            helper.make_node("Mul", ["scaled", "ones"], ["scaled_by_ones"]),
        ]
    if fault == "values":
        weights["more"] = np.ones(1, dtype=np.float32)
        nodes[at["reentry_probability"]].output[0] = "probability"
        nodes.append(helper.make_node("Add", ["probability", "more"], ["reentry_probability"]))
    inputs = {"features": ["batch", "time", features]}
    _save(path, nodes, inputs, {"reentry_probability": ["batch", "time"]}, weights)


def write_watching_model(path: Path, *, version: int, step: bool) -> None:
    """Write a graph with the tensors of `reentry_lstm`, or of `scan_step`, that uses the orbit features alone.

    Its probability is above a half where the pressure exceeds the onset pressure of the estimated drag factor.

    Args:
        path: the file.
        version: the version that the graph answers.
        step: whether the graph is for one step, features [B,F] and a state that stays as it is, or for [B,T,F].
    """
    weights = {
        name: np.array([schema.FEATURES.index(name)])
        for name in ("orbit_known", "orbit_peak_pressure", "orbit_drag_factor")
    }
    weights |= {
        "least": np.array([1e-6], np.float32),
        "per_decade": np.array([1.0 / np.log(10.0)], np.float32),
        "onset": np.array([np.log10(980.665)], np.float32),  # m/s2, drag factors are per 1000 kg/m2
        "slope": np.array([8.0], np.float32),
        "last": np.array([-1], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "version": np.array([version], np.int64),
    }
    column = "reentry_probability" if step else "column"
    nodes = [
        helper.make_node("Gather", ["features", "orbit_known"], ["known"], axis=-1),
        helper.make_node("Gather", ["features", "orbit_peak_pressure"], ["pressure"], axis=-1),
        helper.make_node("Gather", ["features", "orbit_drag_factor"], ["factor"], axis=-1),
        helper.make_node("Max", ["factor", "least"], ["positive"]),
        helper.make_node("Log", ["positive"], ["log"]),
        helper.make_node("Mul", ["log", "per_decade"], ["log10"]),
        helper.make_node("Add", ["pressure", "log10"], ["drag"]),
        helper.make_node("Sub", ["drag", "onset"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["chance"]),
        helper.make_node("Mul", ["chance", "known"], [column]),
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["version_shape"], axis=0),
        helper.make_node("Expand", ["version", "version_shape"], ["model_version"]),
    ]
    features = len(schema.FEATURES)
    inputs: dict[str, Axes] = {"features": ["batch", features] if step else ["batch", "time", features]}
    outputs: dict[str, Axes] = {"reentry_probability": ["batch", 1 if step else "time"]}
    if step:
        inputs["recurrent_state"], outputs["next_recurrent_state"] = ["batch", "width"], ["batch", "size"]
        nodes.append(helper.make_node("Identity", ["recurrent_state"], ["next_recurrent_state"]))
    else:
        nodes.append(helper.make_node("Squeeze", ["column", "last"], ["reentry_probability"]))
    _save(path, nodes, inputs, outputs, weights)


def write_toy_imagery(path: Path, *, version: int) -> None:
    """Write the graph of a second model: image [B,8,8] -> target_score [B,1], model_version [B,1].

    Args:
        path: the file.
        version: the version that the graph answers.
    """
    weights = {
        "zero": np.array([0], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "version": np.array([version], dtype=np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["rows"], axes=[2], keepdims=0),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["mean"], ["target_score"]),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "one"], ["version_shape"], axis=0),
        helper.make_node("Expand", ["version", "version_shape"], ["model_version"]),
    ]
    _save(path, nodes, {"image": ["batch", 8, 8]}, {"target_score": ["batch", 1]}, weights)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Axes],
    outputs: dict[str, Axes],
    weights: dict[str, npt.NDArray[Any]],
) -> None:
    """Save a graph of float tensors and the output model_version [B,1]."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in (inputs | outputs).items()]
    version = helper.make_tensor_value_info("model_version", TensorProto.INT64, ["batch", 1])
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "toy", values[: len(inputs)], [*values[len(inputs) :], version], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
