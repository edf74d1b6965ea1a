"""A real Triton server serves the fp32 and int8 exports of a network with another shape than the default."""

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
from reentry.decision import decide_tracks
from reentry.features.track import track_features
from reentry.serving import EmbeddedServer
from registry.formats import FORMATS, Format
from registry.manifest import Manifest
from registry.open import open_store
from registry.store import manifest_of
from tests.conftest import copy_repository, on_free_ports
from tests.integration.test_serving import make_tracks, request_inputs
from tests.training_data import write_flights
from training.config import ModelConfig, TrainConfig
from training.train import train_file

HIDDEN, LAYERS = 48, 3
SHAPES = ((1, 1), (1, 64), (3, 200), (8, 333))
"""Batch sizes and numbers of steps in the requests."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the model repository, with fp32 and int8 exports of one checkpoint as versions 1 and 2."""
    folder = tmp_path_factory.mktemp("export")
    flights = write_flights(folder / "flights.csv")
    shape = ModelConfig(hidden=HIDDEN, layers=LAYERS)
    # Enough epochs for a sharp onset; otherwise the rounding of int8 changes phases, and the gate rejects the format.
    train_file(flights, folder / "train", shape, TrainConfig(epochs=80, accelerator="cpu"))
    repository = copy_repository(folder)
    arguments = ["export", str(folder / "train" / "model.ckpt"), "--repository", str(repository)]
    command = CliRunner().invoke(app, [*arguments, "--format", "onnx,onnx-int8"])
    assert command.exit_code == 0, command.output
    return repository


@pytest.fixture(scope="module")
def one_server(repository: Path) -> Iterator[EmbeddedServer]:
    config = on_free_ports(repository)
    with EmbeddedServer(config) as server:
        yield server


def in_process(repository: Path, version: int, tracks: np.ndarray) -> np.ndarray:
    """Probabilities (B, T) of a version's graph, run by ONNX Runtime in this process."""
    folder, spec = repository / "reentry_lstm" / str(version), FORMATS[Format.ONNX]
    probability, versions = OnnxSession(folder / spec.whole_file, folder / spec.step_file).whole(track_features(tracks))
    assert set(versions.ravel()) == {version}
    return probability


def graph_bytes(manifest: Manifest) -> int:
    spec = FORMATS[manifest.format]
    return manifest.files[spec.whole_file].bytes + manifest.files[spec.step_file].bytes


def served(server: EmbeddedServer, tracks: np.ndarray, model: schema.Model = schema.ENSEMBLE) -> triton.InferResult:
    names = {tensor.name for tensor in model.inputs}
    inputs = [tensor for tensor in request_inputs(tracks) if tensor.name() in names]
    with triton.InferenceServerClient(server.grpc_url) as client:
        return client.infer(model.name, inputs)


def assert_one_graph_answers_as_the_ensemble(server: EmbeddedServer, version: int, *, atol: float) -> None:
    for batch, steps in SHAPES:
        tracks = make_tracks(batch, steps)
        expected = served(server, tracks)
        for model in (schema.REENTRY_TRACK, schema.REENTRY_FAST):
            answer = served(server, tracks, model)
            np.testing.assert_allclose(
                answer.as_numpy("reentry_probability"), expected.as_numpy("reentry_probability"), rtol=0.0, atol=atol
            )
            for tensor in model.outputs[1:]:
                np.testing.assert_array_equal(answer.as_numpy(tensor.name), expected.as_numpy(tensor.name))
            assert set(answer.as_numpy("model_version").ravel()) == {version}


def test_both_versions_come_from_one_checkpoint(repository: Path) -> None:
    store = open_store(repository)
    plain, small = (manifest_of(store, version) for version in (1, 2))
    assert (plain.format, small.format) == (Format.ONNX, Format.ONNX_INT8)
    assert plain.checkpoint_sha256 == small.checkpoint_sha256
    assert (plain.model["hidden"], plain.model["layers"]) == (HIDDEN, LAYERS)
    assert plain.passed
    assert small.passed
    assert graph_bytes(plain) > 2.5 * graph_bytes(small)


def test_the_server_returns_the_fp32_probabilities_of_this_process(
    repository: Path, one_server: EmbeddedServer
) -> None:
    for batch, steps in SHAPES:
        tracks = make_tracks(batch, steps)
        answer, expected = served(one_server, tracks), in_process(repository, 1, tracks)
        assert set(answer.as_numpy("model_version").ravel()) == {1}
        np.testing.assert_array_equal(answer.as_numpy("reentry_probability"), expected)


@pytest.mark.parametrize("derived", schema.DERIVED_MODELS, ids=lambda derived: derived.name)
def test_a_derived_model_has_the_tensors_of_the_schema(
    one_server: EmbeddedServer, derived: schema.DerivedModel
) -> None:
    with triton.InferenceServerClient(one_server.grpc_url) as client:
        metadata = client.get_model_metadata(derived.name)
    kept = {schema.STREAM_STATE, schema.NEXT_STREAM_STATE}  # by the server
    for served_tensors, declared in (
        (metadata.inputs, derived.model.inputs),
        (metadata.outputs, derived.model.outputs),
    ):
        assert {(t.name, t.datatype, tuple(t.shape[1:])) for t in served_tensors} == {
            (t.name, t.dtype, t.dims) for t in declared if t not in kept
        }
    assert metadata.versions == ["1"]


def test_one_graph_answers_as_the_ensemble(one_server: EmbeddedServer) -> None:
    assert_one_graph_answers_as_the_ensemble(one_server, version=1, atol=1e-5)


def test_the_graph_answers_an_invalid_measurement_of_a_batch_with_no_number(one_server: EmbeddedServer) -> None:
    tracks = make_tracks(2, 64)
    expected = served(one_server, tracks, schema.REENTRY_TRACK)
    tracks[1, 40, 3] = np.nan
    answer = served(one_server, tracks, schema.REENTRY_TRACK)
    probability = answer.as_numpy("reentry_probability")
    np.testing.assert_array_equal(probability[0], expected.as_numpy("reentry_probability")[0])
    assert np.isnan(probability[1, 40:]).all()
    assert answer.as_numpy("onset_step")[1, 0] == schema.INVALID["onset_step"]


def test_the_server_returns_the_int8_phases_of_this_process_after_promotion(
    repository: Path, one_server: EmbeddedServer
) -> None:
    url = f"http://{one_server.http_url}"
    arguments = ["repository", "promote", "2", "--repository", str(repository), "--url", url, "--reason", "smaller"]
    command = CliRunner().invoke(app, arguments)
    assert command.exit_code == 0, command.output
    with triton.InferenceServerClient(one_server.grpc_url) as client:
        for derived in schema.DERIVED_MODELS:
            assert client.get_model_metadata(derived.name).versions == ["2"]
    for batch, steps in SHAPES:
        tracks = make_tracks(batch, steps)
        answer, expected = served(one_server, tracks), in_process(repository, 2, tracks)
        phase, onset, _ = decide_tracks(expected, tracks[:, :, 0], np.full(batch, steps))
        assert set(answer.as_numpy("model_version").ravel()) == {2}
        np.testing.assert_array_equal(answer.as_numpy("reentry_phase"), phase)
        np.testing.assert_array_equal(answer.as_numpy("onset_step")[:, 0], onset)
    # The ensemble pads tracks, and int8 rounds by the range of all values.
    assert_one_graph_answers_as_the_ensemble(one_server, version=2, atol=0.05)
    assert phase.any(), "the tracks have no reentry"
    assert not phase.all()
