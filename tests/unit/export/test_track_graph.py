"""The graph from measurements to onsets gives the numbers of the Python path, and never a number for invalid input."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings

from export.track_graph import track_graph
from reentry.arrays import columns_of
from reentry.decision import decide_tracks
from reentry.features.groups import WITHOUT_COMPILER, names_with
from reentry.features.track import named_features, track_features
from reentry.padding import pad_steps
from reentry.schema import INVALID, MEASUREMENT_COLUMNS, REENTRY_TRACK, SIMPLE_FEATURES
from reentry.simulation import BallisticConfig, TrapezoidConfig, of_severity, simulate_ballistic, simulate_trapezoid
from reentry.triton.checks import require_features, require_measurements
from tests.exporting import checkpoint_of, deciding
from tests.unit.reentry.features.test_track import flown
from training.checkpoint import Checkpoint
from training.config import ModelConfig

VERSION = 7
TRACED = names_with(WITHOUT_COMPILER)
"""Features that a graph can compute."""
ALTITUDE, INTENSITY = (MEASUREMENT_COLUMNS.index(name) for name in ("altitude", "radiometric_intensity"))


@cache
def every_feature() -> Checkpoint:
    return checkpoint_of(ModelConfig(features=TRACED, hidden=8, harmonics=(16,)))


@cache
def default() -> Checkpoint:
    return deciding(ModelConfig())


@cache
def session(make: Callable[[], Checkpoint]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(track_graph(make(), VERSION).SerializeToString(), options)


def run(make: Callable[[], Checkpoint], measurements: np.ndarray, length: np.ndarray | None = None) -> list[np.ndarray]:
    lengths = np.full(len(measurements), measurements.shape[1]) if length is None else length
    inputs = {"measurements": measurements, "track_length": lengths.astype(np.int32)[:, None]}
    return session(make).run([tensor.name for tensor in REENTRY_TRACK.outputs], inputs)


def assert_equals_the_python_path(
    make: Callable[[], Checkpoint], measurements: np.ndarray, length: np.ndarray | None = None
) -> None:
    lengths = np.full(len(measurements), measurements.shape[1]) if length is None else length
    with torch.no_grad():
        logits, _ = make().model(torch.from_numpy(track_features(measurements)))
    expected = torch.sigmoid(logits).numpy()
    probability, phase, onset_step, onset_time, version = run(make, measurements, lengths)
    np.testing.assert_allclose(probability, expected, rtol=0.0, atol=1e-5)
    decided = decide_tracks(probability, measurements[:, :, 0], lengths)
    for got, wanted in zip((phase, onset_step[:, 0], onset_time[:, 0]), decided, strict=True):
        np.testing.assert_array_equal(got, wanted)
    far = np.abs(expected[:, :, None] - [0.5, 0.2]).min(axis=(1, 2)) > 1e-5  # the threshold itself may fall either way
    np.testing.assert_array_equal(onset_step[far, 0], decide_tracks(expected, measurements[:, :, 0], lengths)[1][far])
    assert version.tolist() == [[VERSION]] * len(measurements)


@cache
def ballistic(severity: int) -> list[np.ndarray]:
    """Flights as sensors of a severity see them, (T, M) each: with gaps, handovers and outliers from severity 1 on."""
    table = simulate_ballistic(BallisticConfig(tracks=2, seed=severity, sensors=of_severity(severity)))
    table = table.sort_values(["track_id", "timestamp"], kind="stable")
    return [rows[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64) for _, rows in table.groupby("track_id")]


@cache
def trapezoids() -> list[np.ndarray]:
    table = simulate_trapezoid(TrapezoidConfig(tracks=6, seed=3))
    return [rows[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64) for _, rows in table.groupby("track_id")]


@pytest.mark.parametrize("make", [every_feature, default])
@pytest.mark.parametrize("severity", range(4))
def test_ballistic_flights_of_every_severity_get_the_same_answer(make: Callable[[], Checkpoint], severity: int) -> None:
    for flight in ballistic(severity):
        assert_equals_the_python_path(make, flight[None])


@pytest.mark.parametrize("make", [every_feature, default])
def test_padded_trapezoid_flights_get_the_same_answer_in_one_batch(make: Callable[[], Checkpoint]) -> None:
    flights = trapezoids()
    longest = max(map(len, flights))
    padded = np.concatenate([pad_steps(flight[None], longest) for flight in flights])
    assert_equals_the_python_path(make, padded, np.array([len(flight) for flight in flights]))
    onsets = run(make, padded, np.array([len(flight) for flight in flights]))[2]
    for flight, onset in zip(flights, onsets, strict=True):
        assert run(make, flight[None])[2] == onset
    if make is default:
        assert (onsets > 0).all()


@given(flown())
@settings(deadline=None, max_examples=60)
def test_uneven_steps_gaps_outliers_and_handovers_get_the_same_answer(measurements: np.ndarray) -> None:
    measurements[:, ALTITUDE] = np.maximum(measurements[:, ALTITUDE], -1e5)  # lower ones are invalid
    assert_equals_the_python_path(every_feature, measurements[None])


@given(flown())
@settings(deadline=None, max_examples=60)
def test_torch_computes_the_features_of_numpy(measurements: np.ndarray) -> None:
    by_name = named_features(columns_of(torch.from_numpy(measurements[None])), TRACED)
    got = np.stack([by_name[name].numpy() for name in TRACED], axis=-1).astype(np.float32)
    np.testing.assert_allclose(got, track_features(measurements[None])[..., : len(TRACED)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 128, 300])
def test_a_track_of_any_length_gets_the_same_answer(steps: int) -> None:
    flight = trapezoids()[0][:steps]
    assert_equals_the_python_path(default, flight[None])
    assert_equals_the_python_path(every_feature, flight[None])


def test_a_prefix_gets_the_answer_of_the_whole_track() -> None:
    flight = ballistic(2)[0]
    whole = run(every_feature, flight[None])[0]
    for steps in (1, 50, 200):
        np.testing.assert_allclose(run(every_feature, flight[None, :steps])[0], whole[:, :steps], rtol=0.0, atol=1e-6)


def test_only_the_features_that_the_network_uses_are_computed() -> None:
    sizes = {make: len(track_graph(make(), VERSION).graph.node) for make in (default, every_feature)}
    simple = checkpoint_of(ModelConfig(features=SIMPLE_FEATURES, hidden=8))
    assert sizes[default] < len(track_graph(simple, VERSION).graph.node) < sizes[every_feature]
    operations = {node.op_type for node in track_graph(default(), VERSION).graph.node}
    assert "Sin" not in operations  # which only positions and ground speeds need


def change(row: int, column: str, value: float) -> Callable[[np.ndarray], None]:
    def apply(flight: np.ndarray) -> None:
        flight[row, MEASUREMENT_COLUMNS.index(column)] = value

    return apply


FAULTS = {
    **{
        f"{name} {value}": change(100, name, value)
        for name in MEASUREMENT_COLUMNS
        for value in (np.nan, np.inf, -np.inf)
    },
    "time runs backwards": change(100, "timestamp", 5.0),
    "negative time": change(100, "timestamp", -1.0),
    "latitude": change(100, "latitude", 90.5),
    "longitude": change(100, "longitude", -361.0),
    "altitude": change(100, "altitude", 1e9),
    "half a sensor": change(100, "sensor_id", 1.5),
}


@pytest.mark.parametrize("make", [every_feature, default])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_an_invalid_measurement_gets_no_number_from_its_step_on(
    make: Callable[[], Checkpoint], fault: Callable[[np.ndarray], None]
) -> None:
    valid, faulty = trapezoids()[0][:300], trapezoids()[0][:300].copy()
    fault(faulty)
    with pytest.raises(ValueError, match="row 100"):  # the ensemble refuses it
        require_measurements(faulty[None], np.array([300]))
    probability, phase, onset_step, onset_time, _ = run(make, np.stack([valid, faulty]))
    expected = run(make, valid[None])
    np.testing.assert_array_equal(probability[:1], expected[0])  # the other track of the batch keeps its answer
    np.testing.assert_array_equal(probability[1, :100], expected[0][0, :100])
    assert np.isnan(probability[1, 100:]).all()
    assert (phase[1, 100:] == INVALID["reentry_phase"]).all()
    assert onset_step[1, 0] == INVALID["onset_step"]
    assert np.isnan(onset_time[1, 0])
    assert onset_step[0, 0] == expected[2][0, 0]


def test_a_feature_that_exceeds_float32_gets_no_number() -> None:
    flight = trapezoids()[0][:300].copy()
    flight[100, INTENSITY] = 1e300
    require_measurements(flight[None], np.array([300]))
    with pytest.raises(ValueError, match="does not fit in float32"), np.errstate(over="ignore"):
        require_features(track_features(flight[None]))
    probability, _, onset_step, _, _ = run(every_feature, flight[None])
    assert np.isnan(probability[0, 100:]).all()
    assert not np.isnan(probability[0, :100]).any()
    assert onset_step[0, 0] == INVALID["onset_step"]


@pytest.mark.parametrize("length", [-1, 0, 301])
def test_an_invalid_length_gets_no_number(length: int) -> None:
    probability, phase, onset_step, onset_time, _ = run(default, trapezoids()[0][None, :300], np.array([length]))
    assert np.isnan(probability).all()
    assert (phase == INVALID["reentry_phase"]).all()
    assert (onset_step == INVALID["onset_step"]).all()
    assert np.isnan(onset_time).all()


@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
def test_the_padding_never_changes_the_answer_of_a_track(padding: float) -> None:
    flight = trapezoids()[0]
    padded = np.concatenate([flight, np.full((20, len(MEASUREMENT_COLUMNS)), padding)])
    expected, got = run(default, flight[None]), run(default, padded[None], np.array([len(flight)]))
    assert expected[2][0, 0] > 0
    for of_track, of_padded in zip(expected, got, strict=True):
        np.testing.assert_array_equal(of_padded[:, : of_track.shape[1]], of_track)
    assert np.isnan(got[0][0, len(flight) :]).all()  # time runs backwards there, or it is not finite


def test_the_graph_declares_the_tensors_of_the_schema() -> None:
    graph = track_graph(default(), VERSION).graph
    types = {"FP64": onnx.TensorProto.DOUBLE, "FP32": onnx.TensorProto.FLOAT, "UINT8": onnx.TensorProto.UINT8}
    types |= {"INT32": onnx.TensorProto.INT32, "INT64": onnx.TensorProto.INT64}
    for declared, found in ((REENTRY_TRACK.inputs, graph.input), (REENTRY_TRACK.outputs, graph.output)):
        assert [tensor.name for tensor in declared] == [value.name for value in found]
        for tensor, value in zip(declared, found, strict=True):
            kind = value.type.tensor_type
            assert kind.elem_type == types[tensor.dtype]
            sizes = [axis.dim_value or axis.dim_param for axis in kind.shape.dim]
            assert sizes[0] == "batch"
            assert [size if isinstance(size, int) else -1 for size in sizes[1:]] == list(tensor.dims)
