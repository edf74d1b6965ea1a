"""The served ensemble against the same computation in process, on the real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from reentry import schema
from reentry.decision import decide_tracks
from reentry.features import track_features
from reentry.serving import EmbeddedServer

SERVED_WITHIN = 1e-5


def make_tracks(batch: int, steps: int, seed: int = 0) -> np.ndarray:
    """Flights up and down again, noisy, (B, T, M)."""
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
def test_the_ensemble_answers_what_the_process_computes(
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


def test_nan_is_refused_with_its_row_and_column(server: EmbeddedServer) -> None:
    tracks = make_tracks(2, 40)
    tracks[1, 7, 3] = np.nan
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match="track 1 of the request, row 7, column altitude") as refusal,
    ):
        client.infer(schema.ENSEMBLE.name, request_inputs(tracks))
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
