"""A network with orbit features is trained, exported and served to whole tracks and to scans with the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from typer.testing import CliRunner

from cli import app
from export.sessions import OnnxSession
from reentry import schema
from reentry.drift import Reference
from reentry.features.track import track_features
from reentry.serving import EmbeddedServer
from reentry.simulation import simulate_file
from tests.conftest import copy_repository, on_free_ports
from tests.integration.test_scan import scan
from tests.integration.test_serving import request_inputs
from tests.unit.export.test_stream_graph import distinct
from tests.unit.export.test_track_graph import ballistic
from training.config import ModelConfig, TrainConfig
from training.train import train_file

GROUPS = frozenset({"orbit"})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository with a network that was trained for one epoch."""
    folder = tmp_path_factory.mktemp("orbit")
    flights = folder / "flights.parquet"
    simulate_file(flights, profile="ballistic", tracks=8, seed=5, severity=1, processes=1)
    model = ModelConfig(features=("altitude_fraction", *schema.ORBIT_FEATURES))
    train_file(flights, folder / "train", model, TrainConfig(epochs=1, accelerator="cpu"))
    repository = copy_repository(folder)
    arguments = ["export", str(folder / "train" / "model.ckpt"), "--repository", str(repository)]
    command = CliRunner().invoke(app, [*arguments, "--format", "onnx"])
    assert command.exit_code == 0, command.output
    return repository


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[triton.InferenceServerClient]:
    with (
        EmbeddedServer(on_free_ports(repository)) as server,
        triton.InferenceServerClient(server.grpc_url) as connected,
    ):
        yield connected


def flights() -> list[np.ndarray]:
    return [distinct(flight)[:300] for severity in range(4) for flight in ballistic(severity)]


def in_process(repository: Path) -> np.ndarray:
    """Probabilities of the flights, (B, T), by the exported graph in this process."""
    folder = repository / "reentry_lstm" / "1"
    features = track_features(np.stack(flights()), groups=GROUPS)
    assert features[..., schema.FEATURES.index("orbit_known")].any(axis=1).all()
    return OnnxSession(folder / "model.onnx", folder / "step.onnx").whole(features)[0]


def test_the_version_states_its_features_and_the_models_that_cannot_compute_them_do_not_serve_it(
    repository: Path, client: triton.InferenceServerClient
) -> None:
    reference = Reference.load(repository / "reentry_lstm" / "1")
    assert reference is not None
    used = {name for name, feature in reference.features.items() if feature.used}
    assert used == {"altitude_fraction", *schema.ORBIT_FEATURES}
    served = {model.name: client.is_model_ready(model.name) for model in schema.MODELS}
    assert [name for name, ready in served.items() if not ready] == [
        model.name for model in (schema.REENTRY_TRACK, schema.TRACK_MONITOR, schema.REENTRY_FAST, schema.REENTRY_STREAM)
    ]


def test_whole_tracks_get_the_numbers_of_this_process(repository: Path, client: triton.InferenceServerClient) -> None:
    answer = client.infer(schema.ENSEMBLE.name, request_inputs(np.stack(flights())))
    np.testing.assert_array_equal(answer.as_numpy("reentry_probability"), in_process(repository))


def test_scans_get_the_numbers_of_whole_tracks(repository: Path, client: triton.InferenceServerClient) -> None:
    tracks, expected = np.stack(flights()), in_process(repository)
    for step in range(tracks.shape[1]):
        answer = scan(client, "orbit", list(range(len(tracks))), tracks[:, step], sequence_start=step == 0)
        np.testing.assert_allclose(
            answer.as_numpy("reentry_probability"), expected[:, step], rtol=0.0, atol=1e-5, err_msg=str(step)
        )
