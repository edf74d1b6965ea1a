"""Two versions of the network in one real server: production and the served candidate, each with its own answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from reentry import schema
from reentry.drift import REFERENCE_FILE
from reentry.errors import ServerError
from reentry.serving import EmbeddedServer
from reentry.serving.repository import installed_versions
from reentry.training_range import from_json
from registry import candidate, promotion
from registry.candidate import candidate_version, serve_candidate, stop_candidate
from registry.live_server import LiveServer
from registry.open import open_store
from registry.promotion import promote, rollback
from tests.conftest import copy_repository, on_free_ports
from tests.integration.test_promotion import hammered
from tests.integration.test_serving import make_tracks, request_inputs
from tests.toy_model import write_toy_model
from tests.unit.reentry.test_drift import flights, reference_of
from tests.versions import install

TRACKS = make_tracks(3, 200)
APOGEE = {1: 1.0, 2: 2.0, 3: 3.0}
"""Largest apogee of the training tracks of each version in m, which is smaller than that of every track here."""


def version_files(folder: Path, number: int) -> dict[str, bytes]:
    """Files of a version: a network of its own, and a reference with a range of its own."""
    write_toy_model(folder / f"{number}.onnx", version=number, seed=number)
    reference = reference_of(flights(20, seed=number)).as_dict()
    reference["ranges"] = {"apogee": (0.5, APOGEE[number])}
    graph = (folder / f"{number}.onnx").read_bytes()
    return {"model.onnx": graph, "step.onnx": b"step", REFERENCE_FILE: json.dumps(reference).encode()}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 3 of a toy network, and version 4 that does not load; version 1 is in production."""
    folder = tmp_path_factory.mktemp("candidate")
    repository = copy_repository(folder)
    for number in (1, 2, 3):
        install(repository, folder, number, files=version_files(folder, number))
    install(repository, folder, 4, files={"model.onnx": b"no graph", "step.onnx": b""})
    promote(open_store(repository), 1)
    return repository


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[int, npt.NDArray[np.float32]]:
    """Probabilities of each version for `TRACKS` by its graph in process, from the features of the same code."""
    import onnxruntime

    from reentry.features.track import track_features
    from reentry.padding import bucket_length, pad_steps

    features = pad_steps(track_features(TRACKS), bucket_length(TRACKS.shape[1]))
    found = {}
    for number in (1, 2, 3):
        session = onnxruntime.InferenceSession(str(repository / "reentry_lstm" / str(number) / "model.onnx"))
        found[number] = session.run(["reentry_probability"], {"features": features})[0][:, : TRACKS.shape[1]]
    return found


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(on_free_ports(repository, instances=2)) as server:
        yield server


@pytest.fixture
def live(running: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> LiveServer:
    """The running server, whose changes need no trial before them."""
    monkeypatch.setattr(promotion, "try_out", lambda *_: None)
    monkeypatch.setattr(candidate, "try_out", lambda *_: None)
    return LiveServer(f"http://{running.http_url}")


def scored(server: EmbeddedServer, model: str) -> Any:
    with triton.InferenceServerClient(server.grpc_url) as client:
        return client.infer(model, request_inputs(TRACKS))


def check(server: EmbeddedServer, model: str, version: int, expected: dict[int, npt.NDArray[np.float32]]) -> None:
    """Check that the answers of a model have the version, the probabilities and the training range of a version."""
    answer = scored(server, model)
    assert answer.as_numpy("model_version")[:, 0].tolist() == [version] * len(TRACKS)
    np.testing.assert_allclose(answer.as_numpy("reentry_probability"), expected[version], rtol=0, atol=1e-5)
    for text in answer.as_numpy("unlike_training")[:, 0]:
        assert {found.high for found in from_json(text) if found.quantity == "apogee"} == {APOGEE[version]}


def test_two_versions_answer_with_their_own_values_and_production_never_changes(
    repository: Path, running: EmbeddedServer, live: LiveServer, expected: dict[int, npt.NDArray[np.float32]]
) -> None:
    store = open_store(repository)
    assert not np.allclose(expected[1], expected[2], atol=0.01)
    fitted = live.config()
    with hammered(running) as load:
        serve_candidate(store, 3, server=live)
        check(running, "reentry_candidate", 3, expected)
        serve_candidate(store, 2, server=live)  # another candidate in place of the first
        check(running, "reentry_candidate", 2, expected)
        check(running, "reentry", 1, expected)
        assert live.for_model("reentry_lstm_candidate").versions() == [2]
        assert installed_versions(repository / "reentry_lstm_candidate") == [2]
        stop_candidate(store, server=live)
        with pytest.raises(InferenceServerException, match="unknown model"):
            scored(running, "reentry_candidate")
        check(running, "reentry", 1, expected)
        load.wait_for(20)
    assert (load.errors, set(load.versions)) == ([], {1})
    assert live.config() == fitted
    assert live.versions() == [1]


def test_a_live_promotion_beside_a_candidate_changes_production_alone(
    repository: Path, running: EmbeddedServer, live: LiveServer, expected: dict[int, npt.NDArray[np.float32]]
) -> None:
    store = open_store(repository)
    instances = [group["count"] for group in json.loads(live.config())["instance_group"]]
    serve_candidate(store, 2, server=live)
    own = json.loads(live.for_model("reentry_lstm_candidate").config())
    assert [group["count"] for group in own["instance_group"]] == instances  # fitted to the machine like production
    try:
        with hammered(running) as load:
            promote(store, 3, reason="a test", server=live)
            check(running, "reentry", 3, expected)
            check(running, "reentry_candidate", 2, expected)
            promote(store, 2, reason="a test", server=live)  # the candidate itself
            check(running, "reentry", 2, expected)
            check(running, "reentry_candidate", 2, expected)
            rollback(store, to=1, server=live)
            check(running, "reentry", 1, expected)
            check(running, "reentry_candidate", 2, expected)
        assert load.errors == []
    finally:
        stop_candidate(store, server=live)
    check(running, "reentry", 1, expected)


def test_a_candidate_that_does_not_load_leaves_the_candidate_before(
    repository: Path, running: EmbeddedServer, live: LiveServer, expected: dict[int, npt.NDArray[np.float32]]
) -> None:
    store = open_store(repository)
    with pytest.raises(ServerError, match="cannot load reentry_lstm_candidate"):
        serve_candidate(store, 4, server=live)
    assert candidate_version(store) is None
    serve_candidate(store, 2, server=live)
    try:
        with pytest.raises(ServerError, match="cannot load reentry_lstm_candidate"):
            serve_candidate(store, 4, server=live)
        assert candidate_version(store) == 2
        check(running, "reentry_candidate", 2, expected)
        check(running, "reentry", 1, expected)
    finally:
        stop_candidate(store, server=live)


def test_a_server_that_starts_with_a_candidate_serves_both(
    repository: Path, expected: dict[int, npt.NDArray[np.float32]]
) -> None:
    store = open_store(repository)
    serve_candidate(store, 3)
    try:
        with EmbeddedServer(on_free_ports(repository, instances=1)) as server:
            check(server, "reentry_candidate", 3, expected)
            check(server, "reentry", 1, expected)
            assert schema.CANDIDATE_ENSEMBLE.name == "reentry_candidate"
    finally:
        stop_candidate(store)
