"""Results of the served ensemble, compared with the same computation in this process."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from reentry import schema
from reentry.decision import NO_ONSET, decide_tracks
from reentry.drift import REFERENCE_FILE
from reentry.features.track import track_features
from reentry.serving import EmbeddedServer
from tests.conftest import make_repository, on_free_ports

SERVED_WITHIN = 1e-5


def make_tracks(batch: int, steps: int, seed: int = 0) -> np.ndarray:
    """Noisy measurements of flights from launch to impact, (B, T, M)."""
    generator = np.random.default_rng(seed)
    share = np.linspace(0.0, 1.0, steps)
    apogee = generator.uniform(1.0e5, 1.2e5, (batch, 1))
    altitude = apogee * np.sin(np.pi * share)
    columns = {
        "timestamp": 1.7e9 + 600.0 * np.arange(batch)[:, None] + 0.5 * np.arange(steps),
        "latitude": np.broadcast_to(64.0 - 24.0 * share, (batch, steps)),
        "longitude": np.broadcast_to(-22.0 - 83.0 * share, (batch, steps)),
        "altitude": altitude + generator.normal(0.0, 5.0, (batch, steps)),
        "radiometric_intensity": altitude / 1.2e5 + generator.normal(0.0, 0.01, (batch, steps)),
        "sensor_id": np.full((batch, steps), 3.0),
    }
    return np.stack([columns[name] for name in schema.MEASUREMENT_COLUMNS], axis=-1)


def request_inputs(measurements: np.ndarray, lengths: list[int] | None = None) -> list[triton.InferInput]:
    batch, steps, _ = measurements.shape
    values = {
        schema.MEASUREMENTS: measurements,
        schema.TRACK_LENGTH: np.array(lengths or [steps] * batch, dtype=np.int32)[:, None],
        schema.TRACK_ID_TENSOR: 1000 + np.arange(batch, dtype=np.int64)[:, None],
    }
    inputs = []
    for tensor, value in values.items():
        inputs.append(triton.InferInput(tensor.name, value.shape, tensor.dtype))
        inputs[-1].set_data_from_numpy(value)
    return inputs


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 2), (2, 50), (3, 64), (8, 333), (2, 1200), (64, 20)])
def test_the_ensemble_returns_what_this_process_computes(
    server: EmbeddedServer, model_repository: Path, batch: int, steps: int
) -> None:
    tracks = make_tracks(batch, steps)
    session = onnxruntime.InferenceSession(
        model_repository / "reentry_lstm/1/model.onnx", providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(["reentry_probability"], {"features": track_features(tracks)})
    phase, onset, at = decide_tracks(expected, tracks[:, :, 0], np.full(batch, steps))

    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(schema.ENSEMBLE.name, request_inputs(tracks))

    np.testing.assert_allclose(answer.as_numpy("reentry_probability"), expected, rtol=0, atol=SERVED_WITHIN)
    np.testing.assert_array_equal(answer.as_numpy("reentry_phase"), phase)
    np.testing.assert_array_equal(answer.as_numpy("onset_step")[:, 0], onset)
    np.testing.assert_array_equal(answer.as_numpy("onset_timestamp")[:, 0], at)
    np.testing.assert_array_equal(answer.as_numpy("model_version"), np.ones((batch, 1)))


def json_request(measurements: np.ndarray, lengths: list[int] | None = None) -> bytes:
    """The JSON body of a request by a client without a library."""
    batch, steps, _ = measurements.shape
    values = {
        schema.MEASUREMENTS: (measurements.shape, measurements.ravel().tolist()),
        schema.TRACK_LENGTH: ((batch, 1), lengths or [steps] * batch),
        schema.TRACK_ID_TENSOR: ((batch, 1), list(range(1000, 1000 + batch))),
    }
    inputs = [
        {"name": tensor.name, "datatype": tensor.dtype, "shape": list(shape), "data": data}
        for tensor, (shape, data) in values.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def test_a_json_response_without_an_onset_is_valid_json_with_the_sentinel(server: EmbeddedServer) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    url = f"http://{server.http_url}/v2/models/{schema.ENSEMBLE.name}/infer"
    with urllib.request.urlopen(url, data=json_request(make_tracks(1, 200)[:, 120:])) as answer:
        outputs = json.loads(answer.read(), parse_constant=refuse)["outputs"]
    values = {output["name"]: output["data"] for output in outputs}
    assert (values["onset_step"], values["onset_timestamp"]) == ([NO_ONSET], [schema.NO_ONSET_TIMESTAMP])


def test_a_nan_measurement_is_refused_with_its_row_and_column(server: EmbeddedServer) -> None:
    tracks = make_tracks(2, 40)
    tracks[1, 7, 3] = np.nan
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(
            InferenceServerException, match="track 1 of the request, row 7, column altitude: not finite"
        ) as refusal,
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_refused_request_does_not_affect_the_others_of_its_batch(server: EmbeddedServer) -> None:
    good, bad = make_tracks(1, 40), make_tracks(1, 40)
    bad[0, 0, 1] = np.inf

    def status_of(tracks: np.ndarray) -> str:
        try:
            client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
        except InferenceServerException as error:
            return str(error.status())
        return "answered"

    with triton.InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(status_of, [good, bad] * 16))
    assert outcomes == ["answered", "StatusCode.INVALID_ARGUMENT"] * 16


def test_measurements_beyond_float32_are_refused_before_the_network(server: EmbeddedServer) -> None:
    tracks = make_tracks(1, 10)
    tracks[0, 5, schema.MEASUREMENT_COLUMNS.index("radiometric_intensity")] = 1e300
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="row 5, column intensity: feature does not fit in float32"),
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))


@pytest.mark.parametrize("length", [0, -1, 41])
def test_a_length_outside_the_measurements_is_refused(server: EmbeddedServer, length: int) -> None:
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match=f"expected track_length from 1 to 40.*got {length}") as refusal,
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(2, 40), [40, length]))
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("latitude", 95.0, "above 90 degrees, got 95"),
        ("timestamp", 0.0, "time runs backwards, from 1700000604.5 in the row before, got 0"),
        ("sensor_id", 0.5, "not a whole number, got 0.5"),
    ],
)
def test_an_impossible_measurement_is_a_status_400_with_row_and_column(
    server: EmbeddedServer, column: str, value: float, problem: str
) -> None:
    tracks = make_tracks(2, 12)
    tracks[1, 10, schema.MEASUREMENT_COLUMNS.index(column)] = value
    url = f"http://{server.http_url}/v2/models/{schema.ENSEMBLE.name}/infer"
    with urllib.request.urlopen(url, data=json_request(tracks, [12, 10])) as answer:
        assert answer.status == 200  # the impossible measurement is in the padding
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(url, data=json_request(tracks, [12, 11]))
    with refusal.value as answer:
        assert answer.code == 400
        assert f"track 1 of the request, row 10, column {column}: {problem}" in json.load(answer)["error"]


def test_a_track_longer_than_the_limit_is_refused(server: EmbeddedServer) -> None:
    tracks = np.repeat(make_tracks(1, 1), schema.LONGEST_TRACK + 1, axis=1)
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match=r"at most 100,000 steps of a track.* got 100,001") as refusal,
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_track_without_steps_is_refused(server: EmbeddedServer) -> None:
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="at least one measurement"),
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(np.zeros((1, 0, len(schema.MEASUREMENT_COLUMNS))), [1]))


def test_measurements_with_a_missing_column_are_refused(server: EmbeddedServer) -> None:
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="measurements") as refusal,
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(1, 10)[:, :, :5]))
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_probability_does_not_depend_on_later_steps(server: EmbeddedServer) -> None:
    tracks = make_tracks(2, 300)
    with triton.InferenceServerClient(server.grpc_url) as client:
        whole = client.infer(schema.ENSEMBLE.name, request_inputs(tracks)).as_numpy("reentry_probability")
        for steps in (1, 64, 65, 200):
            prefix = client.infer(schema.ENSEMBLE.name, request_inputs(tracks[:, :steps]))
            np.testing.assert_allclose(
                prefix.as_numpy("reentry_probability"), whole[:, :steps], rtol=0, atol=SERVED_WITHIN
            )


def test_a_padded_track_gets_the_result_of_the_track_without_padding(server: EmbeddedServer) -> None:
    long, short = make_tracks(1, 90), make_tracks(1, 70, seed=1)
    padded = np.concatenate([short, np.repeat(short[:, -1:], 20, axis=1)], axis=1)
    with triton.InferenceServerClient(server.grpc_url) as client:
        alone = client.infer(schema.ENSEMBLE.name, request_inputs(short))
        together = client.infer(schema.ENSEMBLE.name, request_inputs(np.concatenate([long, padded]), [90, 70]))
    np.testing.assert_allclose(
        together.as_numpy("reentry_probability")[1, :70],
        alone.as_numpy("reentry_probability")[0],
        rtol=0,
        atol=SERVED_WITHIN,
    )
    assert together.as_numpy("onset_step")[1, 0] == alone.as_numpy("onset_step")[0, 0]


def test_a_version_that_does_not_list_its_features_receives_all_of_them(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    (repository / "reentry_lstm/1" / REFERENCE_FILE).unlink()
    tracks = make_tracks(3, 500)
    with (
        EmbeddedServer(on_free_ports(repository)) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        features = client.infer("track_features", request_inputs(tracks)[:2]).as_numpy("features")
    np.testing.assert_array_equal(features[:, :500], track_features(tracks))


def test_tracks_of_different_lengths_share_batches_of_the_network(server: EmbeddedServer) -> None:
    outcomes: queue.Queue[Exception | None] = queue.Queue()

    def keep(result: object, error: Exception | None) -> None:
        outcomes.put(error)

    def executions() -> int:
        return int(client.get_inference_statistics("reentry_lstm").model_stats[0].execution_count)

    with triton.InferenceServerClient(server.grpc_url) as client:
        inputs = []
        for steps in (4001, 4032):
            features = client.infer("track_features", request_inputs(make_tracks(1, steps))[:2]).as_numpy("features")
            assert features.shape == (1, 4032, len(schema.FEATURES))
            inputs.append(triton.InferInput("features", features.shape, "FP32"))
            inputs[-1].set_data_from_numpy(features)
        before = executions()
        for _ in range(64):  # requests arrive faster than the network processes them
            for features_of_length in inputs:
                client.async_infer("reentry_lstm", [features_of_length], keep)
        assert [outcomes.get(timeout=300) for _ in range(128)] == [None] * 128
        assert executions() - before < 128


def test_the_served_models_have_the_tensors_of_the_schema(server: EmbeddedServer) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        # The toy network has no graphs for the derived models; test_export_serving.py serves them.
        derived = {model for each in schema.DERIVED_MODELS for model in each.served_with}
        for model in set(schema.MODELS) - derived:
            metadata = client.get_model_metadata(model.name)
            assert {(t.name, t.datatype, tuple(t.shape[1:])) for t in metadata.inputs} == {
                (t.name, t.dtype, t.dims) for t in model.inputs
            }
            assert {(t.name, t.datatype, tuple(t.shape[1:])) for t in metadata.outputs} == {
                (t.name, {"STRING": "BYTES"}.get(t.dtype, t.dtype), t.dims) for t in model.outputs
            }


def test_each_scored_track_has_a_line_in_the_prediction_log(server: EmbeddedServer) -> None:
    before = len(server.prediction_log.read_text().splitlines())
    tracks = make_tracks(3, 120)
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(schema.ENSEMBLE.name, request_inputs(tracks, [120, 100, 1]))
    lines = [json.loads(line) for line in server.prediction_log.read_text().splitlines()[before:]]
    assert [line["track_id"] for line in lines] == [1000, 1001, 1002]
    assert [line["rows"] for line in lines] == [120, 100, 1]
    assert [line["model_version"] for line in lines] == [1, 1, 1]
    onsets = answer.as_numpy("onset_step")[:, 0].tolist()
    assert [-1 if line["onset_step"] is None else line["onset_step"] for line in lines] == onsets
    assert all(line["inference_ms"] > 0 for line in lines)


def test_metrics_are_served(server: EmbeddedServer) -> None:
    with urllib.request.urlopen(server.metrics_url) as answer:
        assert b"nv_inference_request_success" in answer.read()
