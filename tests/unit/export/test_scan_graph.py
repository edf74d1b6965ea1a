"""The graph of many live tracks computes the same step as PyTorch, from states of any width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import training
from export.graphs import StepModel
from export.scan_graph import scan_graph
from reentry.errors import ExportError
from reentry.schema import FEATURES, SCAN_STEP
from tests.exporting import checkpoint_of
from training.checkpoint import Checkpoint
from training.config import GRU, ModelConfig, read_configs
from training.models.networks import network

TRACKS, VERSION = 50, 7
PRESET = Path(training.__file__).parent / "presets" / "ballistic.toml"


@cache
def default() -> Checkpoint:
    return checkpoint_of(ModelConfig())


@cache
def ballistic() -> Checkpoint:
    return checkpoint_of(read_configs(PRESET, model={}, train={})[0])


@cache
def layered() -> Checkpoint:
    return checkpoint_of(ModelConfig(hidden=5, layers=3, layer_norm=True))


@cache
def session(make: Callable[[], Checkpoint]) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(scan_graph(make(), VERSION).SerializeToString())


def scan(make: Callable[[], Checkpoint], features: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
    inputs = {"features": features, "recurrent_state": state}
    return session(make).run([tensor.name for tensor in SCAN_STEP.outputs], inputs)


def steps(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(30.0, 100.0, (count, TRACKS, len(FEATURES))).astype(np.float32)


@pytest.mark.parametrize("make", [default, ballistic, layered])
def test_scans_with_carried_state_equal_the_steps_of_pytorch(make: Callable[[], Checkpoint]) -> None:
    config = make().model_config
    reference = StepModel(make().model, VERSION)
    before = [torch.zeros(TRACKS, config.layers, config.hidden) for _ in range(2)]
    state = np.zeros((TRACKS, 1), np.float32)  # a caller that does not know the size of the state
    for features in steps(20):
        with torch.no_grad():
            expected, *before, _ = reference(torch.from_numpy(features), *before)
        probability, state, version = scan(make, features, state)
        np.testing.assert_allclose(probability, expected, rtol=0.0, atol=1e-6)
        flattened = torch.cat([each.flatten(1) for each in before], dim=1)
        np.testing.assert_allclose(state, flattened, rtol=0.0, atol=5e-6)  # of up to several units
        assert version.tolist() == [[VERSION]] * TRACKS


@pytest.mark.parametrize("width", [0, 1, 31, 32, 33])
def test_a_state_of_another_width_counts_as_extended_by_zeros_or_cut(width: int) -> None:
    features, given = steps(1)[0], np.random.default_rng(1).normal(size=(TRACKS, 33)).astype(np.float32)
    state = given[:, :32].copy()
    state[:, width:] = 0.0
    for got, expected in zip(scan(default, features, given[:, :width]), scan(default, features, state), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_features_that_the_network_does_not_use_may_be_missing() -> None:
    features, state = steps(1)[0], np.zeros((TRACKS, 1), np.float32)
    missing = features.copy()
    missing[:, [name not in default().model_config.features for name in FEATURES]] = np.nan
    np.testing.assert_array_equal(scan(default, missing, state)[0], scan(default, features, state)[0])


def test_only_an_lstm_is_exported() -> None:
    other = replace(default(), model=network(ModelConfig(kind=GRU)))
    with pytest.raises(ExportError, match="only an LSTM can be exported"):
        scan_graph(other, VERSION)
