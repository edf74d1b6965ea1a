"""reentry_fast answers as the ensemble reentry does, refuses, logs and counts; clients use it and lose nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from client import Reentry, routing
from client.connection import Array, Connection
from client.predict import PredictConfig, predict_file
from export.builders import build, build_derived
from export.tensorrt.config import TensorRTConfig
from export.track_graph import track_graph
from reentry import schema
from reentry.serving import EmbeddedServer
from reentry.serving import http as api
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from registry import promotion
from registry.formats import Format
from registry.live_server import LiveServer
from registry.open import open_store
from tests.conftest import copy_repository, on_free_ports
from tests.exporting import deciding
from tests.integration.test_monitoring import exported, total, until, write_reference
from tests.integration.test_serving import make_tracks, request_inputs
from tests.versions import install
from training.checkpoint import Checkpoint
from training.config import ModelConfig

TRACKS = 60
FAST = schema.REENTRY_FAST.name


def network() -> Checkpoint:
    """A small network that finds onsets in simulated flights."""
    checkpoint = deciding(ModelConfig(hidden=8, layers=1))
    checkpoint.model.chosen[-1] = schema.FEATURES.index("intensity")  # so that the graph checks it
    return checkpoint


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with both graphs of the small network."""
    folder = tmp_path_factory.mktemp("fast")
    repository = copy_repository(folder)
    version = repository / "reentry_lstm/1"
    version.mkdir()
    checkpoint = network()
    build(Format.ONNX, checkpoint, 1, version, TensorRTConfig())
    onnx.save(track_graph(checkpoint, 1), version / schema.TRACK_GRAPH.file)
    write_reference(version)
    (repository / "reentry_track/1").mkdir()
    shutil.copy(version / schema.TRACK_GRAPH.file, repository / "reentry_track/1/model.onnx")
    return repository


@pytest.fixture(scope="module")
def fast_server(repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(repository)) as server:
        yield server


@pytest.fixture
def client(fast_server: EmbeddedServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(fast_server.grpc_url) as connected:
        yield connected


@pytest.fixture
def table() -> pd.DataFrame:
    return simulate_trapezoid(TrapezoidConfig(tracks=TRACKS, shortest=30, longest=90, seed=3, labels=False))


@pytest.fixture
def config(fast_server: EmbeddedServer, table: pd.DataFrame, tmp_path: Path) -> PredictConfig:
    table.to_csv(tmp_path / "tracks.csv", index=False)
    return PredictConfig(source=tmp_path / "tracks.csv", out=tmp_path / "out", url=f"grpc://{fast_server.grpc_url}")


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first 8 tracks and each second request go to `reentry`."""
    monkeypatch.setattr(routing, "FIRST_TRACKS", 8)
    monkeypatch.setattr(routing, "SAMPLED", 2)


class Requests:
    """Names of the models of all requests, in order; `act` may change an answer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.models: list[str] = []
        infer = Connection.infer

        async def recorded(connection: Connection, model: schema.Model, inputs: Any) -> dict[str, Array]:
            self.models.append(model.name)
            return self.act(model, await infer(connection, model, inputs))

        patch.setattr(Connection, "infer", recorded)

    def act(self, model: schema.Model, answer: dict[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        return answer


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


def counted(server: EmbeddedServer, name: str, label: str) -> float:
    return exported(server)[name, (label,)]


def test_answers_are_logged_and_counted(fast_server: EmbeddedServer, client: triton.InferenceServerClient) -> None:
    lengths = [40, 64, 64]
    answer = client.infer(FAST, request_inputs(make_tracks(3, 64), lengths))  # the first request of this server
    onsets = answer.as_numpy("onset_step")[:, 0]
    until(lambda: total(fast_server, "reentry_tracks_total") == 3)  # this metric is updated last
    reentry = np.count_nonzero(answer.as_numpy("reentry_phase")[np.arange(64) < np.array(lengths)[:, None]])
    assert counted(fast_server, "reentry_predictions_total", "phase=reentry") == reentry
    assert counted(fast_server, "reentry_predictions_total", "phase=flight") == sum(lengths) - reentry
    assert counted(fast_server, "reentry_requests_total", "outcome=answered") == 1
    assert exported(fast_server)["reentry_onsets_total", ()] == np.count_nonzero(onsets >= 0)
    log = [json.loads(line) for line in fast_server.prediction_log.read_text().splitlines()]
    assert [line["rows"] for line in log] == lengths
    assert [line["onset_step"] for line in log] == [None if onset < 0 else onset for onset in onsets]
    assert {(line["inference_ms"], line["model_version"]) for line in log} == {(None, 1)}


def test_every_tensor_equals_that_of_the_ensemble(client: triton.InferenceServerClient) -> None:
    for batch, steps in ((1, 1), (1, 64), (3, 200), (64, 333)):
        inputs = request_inputs(make_tracks(batch, steps))
        answer, expected = client.infer(FAST, inputs), client.infer(schema.ENSEMBLE.name, inputs)
        for tensor in schema.REENTRY_FAST.outputs:
            np.testing.assert_allclose(
                answer.as_numpy(tensor.name),
                expected.as_numpy(tensor.name),
                rtol=0.0,
                atol=1e-5 * (tensor.dtype == "FP32"),
            )


def test_a_request_with_an_invalid_track_is_refused_and_counted(
    fast_server: EmbeddedServer, client: triton.InferenceServerClient
) -> None:
    before = counted(fast_server, "reentry_requests_total", "outcome=refused")
    lines = fast_server.prediction_log.read_text().count("\n")
    tracks = make_tracks(3, 64)
    tracks[1, 40, 3] = np.nan
    for inputs, problem in (
        (request_inputs(tracks), "track 1 of the request: invalid from row 40 on; fix: send the track to .* reentry,"),
        (request_inputs(make_tracks(1, 64), [65]), "track 0 of the request: expected track_length from 1 to 64"),
    ):
        with pytest.raises(InferenceServerException, match=problem) as refusal:
            client.infer(FAST, inputs)
        assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    until(lambda: counted(fast_server, "reentry_requests_total", "outcome=refused") == before + 2)
    assert fast_server.prediction_log.read_text().count("\n") == lines
    failures = exported(fast_server)["nv_inference_request_failure", (f"model={FAST}", "reason=OTHER", "version=1")]
    assert failures == 2 * 2  # the monitoring rules expect that an ensemble counts a failure twice


def test_a_direct_call_of_track_monitor_cannot_corrupt_a_metric(client: triton.InferenceServerClient) -> None:
    valid = {
        schema.TRACK_ID_TENSOR: np.array([[7]]),
        schema.TRACK_LENGTH: np.array([[2]], dtype=np.int32),
        schema.PHASE: np.array([[0, 1]], dtype=np.uint8),
        schema.ONSET_STEP: np.array([[1]], dtype=np.int32),
        schema.ONSET_TIMESTAMP: np.array([[1.7e9]]),
        schema.MODEL_VERSION: np.array([[1]]),
    }

    def call(changes: dict[schema.Tensor, np.ndarray]) -> None:
        inputs = []
        for tensor, value in (valid | changes).items():
            inputs.append(triton.InferInput(tensor.name, value.shape, tensor.dtype))
            inputs[-1].set_data_from_numpy(value)
        client.infer(schema.TRACK_MONITOR.name, inputs)

    call({})
    for tensor, value in (
        (schema.TRACK_LENGTH, np.array([[-1]], dtype=np.int32)),
        (schema.PHASE, np.array([[0, 9]], dtype=np.uint8)),
        (schema.ONSET_STEP, np.array([[-7]], dtype=np.int32)),
        (schema.ONSET_TIMESTAMP, np.array([[np.inf]])),
        (schema.MODEL_VERSION, np.array([[-1]])),
    ):
        with pytest.raises(InferenceServerException, match=tensor.name) as refusal:
            call({tensor: value})
        assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_first_promotion_with_a_graph_lets_a_running_server_load_the_ensemble(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "try_out", lambda *_: None)  # a promotion without this server is tested elsewhere
    copy = shutil.copytree(repository, tmp_path / "copy")
    shutil.rmtree(copy / "reentry_track/1")
    checkpoint, version = network(), tmp_path / "graphs"
    version.mkdir()
    build(Format.ONNX, checkpoint, 2, version, TensorRTConfig())
    build_derived(Format.ONNX, checkpoint, 2, version)
    install(copy, tmp_path, 2, files={path.name: path.read_bytes() for path in version.iterdir()})
    with EmbeddedServer(on_free_ports(copy, instances=4)) as server:
        assert FAST not in server.models
        assert promotion.promote(open_store(copy), 2, server=LiveServer(f"http://{server.http_url}")).warnings == ()
        with triton.InferenceServerClient(server.grpc_url) as client:
            answer = client.infer(FAST, request_inputs(make_tracks(2, 64)))
            served = client.get_model_config("reentry_track", as_json=True)["config"]
    assert answer.as_numpy("model_version").tolist() == [[2], [2]]
    assert served["version_policy"]["specific"]["versions"] == ["2"]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.usefixtures("small_sample")
def test_a_file_gets_the_same_results_from_both_models(
    scheme: str, config: PredictConfig, fast_server: EmbeddedServer, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = {"grpc": fast_server.grpc_url, "http": fast_server.http_url}[scheme]
    config = replace(config, url=f"{scheme}://{address}", batching=replace(config.batching, tracks=4))
    summary = predict_file(config)
    assert summary.tracks == TRACKS
    assert requests.models.count(FAST) >= 5
    found = [json.loads(line)["unlike_training"] for line in (config.out / "inference.jsonl").read_text().splitlines()]
    assert 8 < summary.compared == sum(each is not None for each in found) < TRACKS
    assert f"{summary.compared} tracks compared with the training data" in summary.summary()
    monkeypatch.setattr(routing, "FIRST_TRACKS", TRACKS)
    requests.models.clear()
    alone = replace(config, out=config.out.with_name("alone"))
    assert "compared" not in predict_file(alone).summary()
    assert set(requests.models) == {schema.ENSEMBLE.name}
    rows, expected = (pd.read_csv(each.out / "predictions.csv") for each in (config, alone))
    np.testing.assert_allclose(rows["reentry_probability"], expected["reentry_probability"], rtol=0.0, atol=1e-5)
    np.testing.assert_array_equal(rows["reentry_phase"], expected["reentry_phase"])
    assert 0.0 < rows["reentry_phase"].mean() < 1.0
    assert (config.out / "onsets.csv").read_text() == (alone.out / "onsets.csv").read_text()


@pytest.mark.usefixtures("small_sample")
def test_a_track_that_the_graph_marks_is_set_aside_with_its_row_and_column(
    config: PredictConfig, table: pd.DataFrame
) -> None:
    row = table.index[table["track_id"] == TRACKS - 1][5]
    table.loc[row, "radiometric_intensity"] = 1e39  # valid in a file, but too large for float32
    table.to_csv(config.source, index=False)
    summary = predict_file(replace(config, batching=replace(config.batching, padding=1.0)))
    assert (summary.tracks, summary.set_aside) == (TRACKS - 1, 1)
    set_aside = pd.read_csv(config.out / "set_aside.csv")
    assert set_aside["track_id"].unique().tolist() == [TRACKS - 1]
    assert set_aside["set_aside_reason"].str.contains("row 5, column intensity: feature does not fit in float32").all()


@pytest.mark.parametrize("vanished", [FAST, schema.REENTRY_TRACK.name])
@pytest.mark.usefixtures("small_sample")
def test_a_run_continues_with_the_ensemble_if_the_fast_model_vanishes(
    vanished: str, config: PredictConfig, fast_server: EmbeddedServer, requests: Requests
) -> None:
    key = fast_server.control_key

    def unload(model: schema.Model, answer: dict[str, Array]) -> dict[str, Array]:
        if model is schema.REENTRY_FAST and FAST not in requests.models[:-1]:
            api.unload_model(fast_server.http_url, vanished, key=key)
            until(lambda: vanished not in api.loaded_models(fast_server.http_url, key=key))
        return answer

    requests.act = unload  # type: ignore[method-assign]
    try:
        summary = predict_file(replace(config, concurrency=1, batching=replace(config.batching, tracks=4)))
    finally:
        for name in (schema.REENTRY_TRACK.name, FAST):
            api.load_model(fast_server.http_url, name, None, key=key, timeout=60.0)
    assert (summary.tracks, summary.set_aside) == (TRACKS, 0)
    first = requests.models.index(FAST)
    assert FAST in requests.models[first + 1 :]  # it was tried again, and the request went to `reentry` instead
    assert requests.models[-1] == schema.ENSEMBLE.name


@pytest.mark.usefixtures("small_sample")
def test_two_models_with_different_versions_never_share_a_file(
    config: PredictConfig, table: pd.DataFrame, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    def promoted(model: schema.Model, answer: dict[str, Array]) -> dict[str, Array]:
        return answer | ({"model_version": answer["model_version"] + 1} if model is schema.REENTRY_FAST else {})

    requests.act = promoted  # type: ignore[method-assign]
    caplog.set_level("INFO")
    summary = predict_file(config)
    assert "scoring all tracks again" in caplog.text
    assert (summary.tracks, summary.model_version) == (TRACKS, 1)
    scores = Reentry(config.url).score(table)
    assert scores.tracks["model_version"].unique().tolist() == [1]
    assert requests.models.count(FAST) > 0


@pytest.mark.usefixtures("small_sample")
def test_an_interrupted_run_resumes_with_the_model_that_scored_the_kept_track(
    config: PredictConfig, requests: Requests
) -> None:
    config = replace(config, concurrency=1, batching=replace(config.batching, tracks=4))

    def interrupt(model: schema.Model, answer: dict[str, Array]) -> dict[str, Array]:
        if requests.models.count(FAST) == 3:
            raise KeyboardInterrupt
        return answer

    requests.act = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        predict_file(config)
    requests.act = lambda _, answer: answer  # type: ignore[method-assign]
    summary = predict_file(config)
    assert summary.tracks == TRACKS
    assert summary.resumed > 0


@pytest.mark.usefixtures("small_sample")
def test_a_table_gets_the_same_results_from_both_models(
    config: PredictConfig, table: pd.DataFrame, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Reentry(config.url).score(table)
    assert FAST in requests.models
    monkeypatch.setattr(routing, "FIRST_TRACKS", TRACKS)
    alone = Reentry(config.url).score(table)
    pd.testing.assert_frame_equal(scores.tracks, alone.tracks)
    np.testing.assert_array_equal(scores.rows["reentry_phase"], alone.rows["reentry_phase"])
