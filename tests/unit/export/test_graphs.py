"""Exported graphs carry their metadata and compute what the network computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from export.graphs import metadata_of, step_graph, whole_graph
from export.quantize import dynamic_int8, static_int8
from export.sessions import Carried, OnnxSession, no_state
from export.torch_session import save_torchscript, torchscript_session
from export.validation import flight_features
from reentry.errors import ExportError
from reentry.features.orbit_posterior import COEFFICIENTS, SPEEDS
from reentry.schema import FEATURES, ORBIT_FEATURES, REENTRY_STEP, SCHEMA_VERSION
from registry.models import fill_orbit_features
from tests.exporting import checkpoint_of
from training.checkpoint import Checkpoint
from training.config import ModelConfig
from training.models.networks import network

SHAPES = {
    "default": ModelConfig(hidden=8),
    "three layers with dropout": ModelConfig(hidden=5, layers=3, dropout=0.3),
    "layer norm": ModelConfig(hidden=8, layer_norm=True),
    "some features": ModelConfig(hidden=8, features=FEATURES[1:4]),
}


@pytest.fixture
def checkpoint() -> Checkpoint:
    return checkpoint_of(ModelConfig(hidden=8))


def session_of(folder: Path, checkpoint: Checkpoint, *, int8: bool = False) -> OnnxSession:
    for name, graph in (("model.onnx", whole_graph(checkpoint, 3)), ("step.onnx", step_graph(checkpoint, 3))):
        onnx.save(dynamic_int8(graph) if int8 else graph, folder / name)
    return OnnxSession(folder / "model.onnx", folder / "step.onnx")


def expected(checkpoint: Checkpoint, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.sigmoid(checkpoint.model(torch.from_numpy(features))[0]).numpy()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_both_graphs_of_every_network_shape_compute_the_network(tmp_path: Path, shape: ModelConfig) -> None:
    checkpoint = checkpoint_of(shape)
    session = session_of(tmp_path, checkpoint)
    features = flight_features(3, 30, seed=1)
    whole, version = session.whole(features)
    np.testing.assert_allclose(whole, expected(checkpoint, features), atol=1e-6)
    assert version.tolist() == [[3]] * 3
    state, steps = no_state(3, shape.layers, shape.hidden), []
    for step in range(features.shape[1]):
        probability, state, version = session.step(np.ascontiguousarray(features[:, step]), state)
        steps.append(probability)
    assert version.tolist() == [[3]] * 3
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, atol=1e-6)
    with torch.no_grad():
        _, (hidden, cell) = checkpoint.model(torch.from_numpy(features))
    np.testing.assert_allclose(state.hidden, hidden.transpose(0, 1), atol=1e-6)  # batch first
    np.testing.assert_allclose(state.cell, cell.transpose(0, 1), atol=1e-6)


def test_the_metadata_of_a_graph_names_network_and_training_data(checkpoint: Checkpoint) -> None:
    for graph, over in ((whole_graph(checkpoint, 12), "whole tracks"), (step_graph(checkpoint, 12), "one step")):
        metadata = metadata_of(graph)
        assert json.loads(metadata.pop("metrics")) == {"f1": 0.5, "onset_rmse": None}
        assert metadata == {
            "over": over,
            "schema_version": str(SCHEMA_VERSION),
            "features": ",".join(FEATURES),
            "layers": "1",
            "hidden": "8",
            "data_fingerprint": "0123",
            "git_revision": "abcd",
        }


def test_constants_are_folded_and_names_of_the_exporter_are_removed(checkpoint: Checkpoint) -> None:
    nodes = whole_graph(checkpoint, 1).graph.node
    kinds = [node.op_type for node in nodes]
    assert "Constant" not in kinds
    assert "Identity" not in kinds
    assert not any(node.metadata_props or node.doc_string for node in nodes)
    assert {node.domain for node in nodes} == {""}  # the domain that every runtime supports


def test_int8_quantises_lstm_and_head(checkpoint: Checkpoint) -> None:
    for graph in (dynamic_int8(whole_graph(checkpoint, 1)), dynamic_int8(step_graph(checkpoint, 1))):
        kinds = {node.op_type for node in graph.graph.node}
        assert {"DynamicQuantizeLSTM", "MatMulInteger"} <= kinds
        assert "LSTM" not in kinds
        assert metadata_of(graph)["precision"] == "int8"
        assert metadata_of(graph)["data_fingerprint"] == "0123"


def test_int8_weights_have_a_scale_for_each_gate_of_each_unit(checkpoint: Checkpoint) -> None:
    graph = dynamic_int8(whole_graph(checkpoint, 1)).graph
    lstm = next(node for node in graph.node if node.op_type == "DynamicQuantizeLSTM")
    scales = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert scales[lstm.input[8]] == [1, 4 * 8]  # W_scale: one direction, four gates of eight units


def test_int8_is_close_to_the_network(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(ModelConfig(hidden=64))
    features = flight_features(2, 60, seed=2)
    got, _ = session_of(tmp_path, checkpoint, int8=True).whole(features)
    difference = np.abs(got - expected(checkpoint, features)).max()
    assert 0.0 < difference < 0.02


@pytest.mark.parametrize("export", [whole_graph, step_graph])
def test_int8_is_a_third_of_the_size_of_a_large_network(
    export: Callable[[Checkpoint, int], onnx.ModelProto],
) -> None:
    for shape in (ModelConfig(hidden=64), ModelConfig(hidden=48, layers=3)):
        graph = export(checkpoint_of(shape), 1)
        assert len(graph.SerializeToString()) > 3 * len(dynamic_int8(graph).SerializeToString())


def test_int8_graphs_contain_only_what_a_runtime_needs(checkpoint: Checkpoint) -> None:
    model = dynamic_int8(step_graph(checkpoint, 1))
    assert not model.graph.value_info
    assert not any(node.name for node in model.graph.node)
    assert {opset.domain for opset in model.opset_import} == {"", "com.microsoft"}
    assert [value.name for value in model.graph.input] == [tensor.name for tensor in REENTRY_STEP.inputs]
    assert [value.name for value in model.graph.output] == [tensor.name for tensor in REENTRY_STEP.outputs]


def test_static_quantisation_leaves_the_lstm_in_float(checkpoint: Checkpoint) -> None:
    graph = static_int8(whole_graph(checkpoint, 1), [flight_features(1, 50, seed=seed) for seed in range(3)])
    kinds = {node.op_type for node in graph.graph.node}
    assert "LSTM" in kinds
    assert "QuantizeLinear" in kinds


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_small_probabilities_of_the_prior_survive_int8(static: bool) -> None:
    checkpoint = checkpoint_of(ModelConfig(hidden=4, features=("altitude_fraction", *ORBIT_FEATURES)))
    light, heavy = COEFFICIENTS < 200.0, COEFFICIENTS > 1_500.0
    fast = np.arange(len(SPEEDS))[:, None] > 3
    prior = np.where(fast, light + 1e-4 * heavy, heavy + 1e-4 * light)  # of slow bodies one in 10,000 is light
    assert checkpoint.model.orbit is not None
    checkpoint.model.orbit.prior.copy_(torch.from_numpy(prior / prior.sum(axis=1, keepdims=True)))
    features = np.zeros((1, 60, len(FEATURES)), np.float32)
    fill_orbit_features(features)
    features[:, 30:, FEATURES.index("orbit_drag_factor")] = 5.5  # a light body, however improbable
    features[:, 30:, FEATURES.index("orbit_drag_deviation")] = 0.9
    features[..., FEATURES.index("orbit_entry_speed")] = 2_000.0
    graph = whole_graph(checkpoint, 1)
    int8 = static_int8(graph, [features]) if static else dynamic_int8(graph)
    exact, rounded = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(["reentry_probability"], {"features": features})[0]
        for model in (graph, int8)
    )
    assert exact[0, 30] < 0.1
    assert exact[0, -1] > 0.9
    np.testing.assert_allclose(rounded, exact, atol=0.1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_fp16_normalises_in_single_and_computes_in_half_precision(shape: ModelConfig) -> None:
    """The ONNX reference evaluator runs the graph, because ONNX Runtime's CPU provider has no fp16 LSTM."""
    checkpoint = checkpoint_of(shape)
    features = flight_features(2, 40, seed=3)
    assert features.max() > np.finfo(np.float16).max  # metres exceed half precision before normalisation
    got, version = ReferenceEvaluator(whole_graph(checkpoint, 5, "fp16")).run(None, {"features": features})
    assert got.dtype == np.float32
    assert version.tolist() == [[5], [5]]
    np.testing.assert_allclose(got, expected(checkpoint, features), atol=5e-3)
    assert np.abs(got - expected(checkpoint, features)).max() > 1e-6


def test_the_fp16_step_graph_has_single_precision_inputs_and_outputs(checkpoint: Checkpoint) -> None:
    graph = step_graph(checkpoint, 1, "fp16").graph
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.FLOAT}
    assert [value.type.tensor_type.elem_type for value in graph.output] == [onnx.TensorProto.FLOAT] * 3 + [
        onnx.TensorProto.INT64
    ]
    lstm = next(node for node in graph.node if node.op_type == "LSTM")
    weights = next(tensor for tensor in graph.initializer if tensor.name == lstm.input[1])
    assert weights.data_type == onnx.TensorProto.FLOAT16


def test_torchscript_computes_the_network(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(SHAPES["three layers with dropout"])
    save_torchscript(checkpoint, 4, tmp_path / "model.pt", tmp_path / "step.pt")
    session = torchscript_session(tmp_path / "model.pt", tmp_path / "step.pt")
    features = flight_features(3, 30, seed=1)
    whole, version = session.whole(features)
    np.testing.assert_allclose(whole, expected(checkpoint, features), atol=1e-6)
    assert version.tolist() == [[4]] * 3
    probability, state, version = session.step(features[:, 0], no_state(3, 3, 5))
    assert version.tolist() == [[4]] * 3
    np.testing.assert_allclose(probability, whole[:, :1], atol=1e-6)
    assert isinstance(state, Carried)
    assert state.hidden.shape == (3, 3, 5)


def test_padding_on_the_right_changes_no_earlier_step(tmp_path: Path, checkpoint: Checkpoint) -> None:
    features = flight_features(2, 30, seed=1)
    padded = np.concatenate([features, np.repeat(features[:, -1:], 20, axis=1)], axis=1)
    session = session_of(tmp_path, checkpoint)
    np.testing.assert_allclose(session.whole(padded)[0][:, :30], session.whole(features)[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["gru", "convolution"])
def test_a_network_that_is_not_an_lstm_is_not_exported(checkpoint: Checkpoint, kind: str) -> None:
    other = replace(checkpoint, model=network(ModelConfig(kind=kind, hidden=4)))
    for graph in (whole_graph, step_graph):
        with pytest.raises(ExportError, match="only an LSTM") as error:
            graph(other, 1)
        assert (error.value.got, error.value.fix) == (f"kind {kind}", "train an LSTM")
