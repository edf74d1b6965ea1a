"""Promotion and rollback on the real server, under load: no request fails, and the new version answers afterwards."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from reentry import schema
from reentry.errors import ClientError, RepositoryError, ServerError
from reentry.serving import EmbeddedServer
from reentry.serving.repository import served_versions
from registry import config_pbtxt, promotion
from registry.inventory import Version
from registry.live_server import LiveServer
from registry.models import MODELS
from registry.open import open_store
from registry.promotion import promote, rollback
from registry.store import VersionStore
from tests.conftest import copy_repository, on_free_ports
from tests.integration.test_serving import make_tracks, request_inputs
from tests.versions import IMAGERY, add_imagery, install, install_imagery, pin

CLIENTS = 4
STEPS = (5, 60, 333, 900)


@dataclass
class Load:
    """Answers and errors that the clients have received."""

    versions: list[int] = field(default_factory=list)
    """Version that gave each answer, in the order of the answers."""
    errors: list[str] = field(default_factory=list)
    answered: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, more: int) -> None:
        """Wait until so many more answers or errors have arrived."""
        with self.answered:
            goal = len(self.versions) + len(self.errors) + more
            assert self.answered.wait_for(lambda: len(self.versions) + len(self.errors) >= goal, timeout=300)


@contextmanager
def hammered(server: EmbeddedServer) -> Iterator[Load]:
    """Send requests to the ensemble all the time, from clients that each use another track length.

    The short pauses leave the processors to the change, which otherwise takes several times as long.
    """
    load, stop = Load(), threading.Event()

    def ask(steps: int) -> None:
        inputs = request_inputs(make_tracks(2, steps))
        with triton.InferenceServerClient(server.grpc_url) as client:
            while not stop.wait(0.01):
                try:
                    answer = client.infer(schema.ENSEMBLE.name, inputs)
                except Exception as error:
                    with load.answered:
                        load.errors.append(str(error))
                        load.answered.notify_all()
                    continue
                with load.answered:
                    load.versions.append(int(answer.as_numpy("model_version")[0, 0]))
                    load.answered.notify_all()

    threads = [threading.Thread(target=ask, args=(STEPS[index % len(STEPS)],)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        load.wait_for(20)
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def served_now(server: EmbeddedServer) -> int:
    """Return the version that answers a new request."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(1, 5)))
    return int(answer.as_numpy("model_version")[0, 0])


def score_image(server: EmbeddedServer) -> int:
    """Return the version of the second model that scores an image."""
    image = triton.InferInput("image", (1, 8, 8), "FP32")
    image.set_data_from_numpy(np.ones((1, 8, 8), np.float32))
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(IMAGERY.name, [image])
    assert 0.7 < answer.as_numpy("target_score")[0, 0] < 0.75  # sigmoid(1)
    return int(answer.as_numpy("model_version")[0, 0])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Versions 1 to 5 of the LSTM, and 1 and 2 of a second model.

    Versions 3, 4 and 5 pass every rule, but do not load, do not run, and give wrong outputs.
    """
    folder = tmp_path_factory.mktemp("promotion")
    repository = copy_repository(folder)
    pin(repository, 1)
    for number in (1, 2):
        install(repository, folder, number, toy_seed=number)
    install(repository, folder, 3, files={"model.onnx": b"no graph", "step.onnx": b""})
    install(repository, folder, 4, toy_seed=4, toy_fault="run")
    install(repository, folder, 5, toy_seed=5, toy_fault="values")
    add_imagery(repository)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, IMAGERY.name, IMAGERY)
        for number in (1, 2):
            install_imagery(repository, folder, number)
        yield repository


@pytest.fixture(scope="module")
def one_server(repository: Path) -> Iterator[EmbeddedServer]:
    config = on_free_ports(repository, instances=2)
    with EmbeddedServer(config) as server:
        yield server


@pytest.fixture
def running(store: VersionStore, one_server: EmbeddedServer) -> EmbeddedServer:
    """A running server with version 1 in production."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "try_out", lambda *_: None)
        promote(store, 1, server=LiveServer(f"http://{one_server.http_url}"))
    return one_server


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the trial before a change, as on a machine that cannot run one."""
    monkeypatch.setattr(promotion, "try_out", lambda *_: None)


@pytest.fixture
def store(repository: Path) -> VersionStore:
    """The versions of the LSTM, with version 1 in production."""
    store = open_store(repository)
    promote(store, 1)
    return store


def test_promotion_and_rollback_fail_no_request_and_change_every_later_answer(
    store: VersionStore, running: EmbeddedServer
) -> None:
    server = LiveServer(f"http://{running.http_url}")
    fitted = json.loads(server.config())
    with hammered(running) as load:
        for change, number in (
            (lambda: promote(store, 2, server=server), 2),
            (lambda: rollback(store, server=server), 1),
        ):
            change()
            begun = len(load.versions)
            assert served_now(running) == number
            load.wait_for(50)
            # The old version may still have answered one request of each client that was under way at the change.
            old = [version for version in load.versions[begun:] if version != number]
            assert len(old) <= CLIENTS
    assert load.errors == []
    assert set(load.versions) == {1, 2}
    assert server.versions() == [1]
    assert json.loads(server.config()) == fitted  # with the instances and threads that `reentry serve` chose


def test_a_promotion_of_one_model_leaves_the_other_unchanged_in_the_same_server(
    repository: Path, running: EmbeddedServer
) -> None:
    url = f"http://{running.http_url}"
    store, server, other = open_store(repository, IMAGERY.name), LiveServer(url, IMAGERY.name), LiveServer(url)
    model = repository / "reentry_lstm"
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    fitted = other.config()
    promote(store, 1)
    with hammered(running) as load:
        for change, number in (
            (lambda: promote(store, 2, server=server), 2),
            (lambda: rollback(store, server=server), 1),
        ):
            assert change().warnings == ()  # each version had a trial
            assert (server.versions(), other.versions()) == ([number], [1])
            assert score_image(running) == number
    assert (load.errors, set(load.versions)) == ([], {1})
    assert other.config() == fitted
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (3, r"cannot load reentry_lstm: .*model\.onnx is not a valid ONNX model"),
        (4, r"cannot load reentry_lstm: .*model\.onnx does not run: .*Gather"),
        (5, "reentry_probability is not between 0 and 1"),
    ],
)
def test_a_version_that_fails_its_trial_never_reaches_the_server(
    store: VersionStore, running: EmbeddedServer, number: int, problem: str
) -> None:
    loads = running.server_log.read_text().count("loading: reentry_lstm")
    before = [store.read(name) for name in ("config.pbtxt", "labels.json")]
    with pytest.raises(RepositoryError) as failure:
        promote(store, number, server=LiveServer(f"http://{running.http_url}"))
    assert failure.value.where == store.place(number)
    assert re.search(f"version {number} .* trial failed: .*{problem}", failure.value.problem)
    assert running.server_log.read_text().count("loading: reentry_lstm") == loads
    assert [store.read(name) for name in ("config.pbtxt", "labels.json")] == before
    assert served_now(running) == 1


@pytest.mark.parametrize("number", [3, 4])
def test_a_version_that_the_server_cannot_load_changes_nothing_and_fails_no_request(
    store: VersionStore, running: EmbeddedServer, untried: None, number: int
) -> None:
    server = LiveServer(f"http://{running.http_url}")
    fitted = server.config()
    before = [store.read(name) for name in ("config.pbtxt", "labels.json")]
    with hammered(running) as load:
        with pytest.raises(ServerError, match=r"cannot load reentry_lstm: .*model\.onnx"):
            promote(store, number, server=server)
        load.wait_for(50)
    assert load.errors == []
    assert set(load.versions) == {1}
    assert [store.read(name) for name in ("config.pbtxt", "labels.json")] == before
    assert json.loads(server.config()) == json.loads(fitted)
    assert server.versions() == [1]


def test_the_server_is_restored_if_the_repository_cannot_be_written(
    store: VersionStore, running: EmbeddedServer, untried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LiveServer(f"http://{running.http_url}")
    stored = store.read("labels.json")

    def full(name: str, *_: object, **__: object) -> None:
        raise OSError(28, f"No space left on device: {name}")

    with hammered(running) as load:
        monkeypatch.setattr(store, "write", full)
        with pytest.raises(OSError, match="No space left"):
            promote(store, 2, server=server)
        assert served_now(running) == 1
    assert load.errors == []
    assert server.versions() == [1]
    assert store.read("labels.json") == stored


def test_a_repeated_promotion_brings_a_server_that_is_ahead_and_its_repository_together(
    store: VersionStore, running: EmbeddedServer, untried: None
) -> None:
    server = LiveServer(f"http://{running.http_url}")
    text = store.read("config.pbtxt").text or ""
    spec = Version(number=2, manifest=None, files={"model.onnx": 1}).spec
    assert spec is not None
    server.serve(server.config(), text, config_pbtxt.pinned(text, version=2, spec=spec))  # the command is killed here
    assert served_now(running) == 2
    assert any("version_policy" in line for line in config_pbtxt.differences(text, server.config()))
    with hammered(running) as load:
        promote(store, 2, server=server)
    assert (load.errors, set(load.versions)) == ([], {2})
    assert server.versions() == [2]
    now = config_pbtxt.differences(store.read("config.pbtxt").text or "", server.config())
    assert [line for line in now if "fitted to its machine" not in line] == []


def test_a_server_with_a_control_key_changes_only_for_clients_with_that_key(store: VersionStore, untried: None) -> None:
    config = on_free_ports(Path(store.location), control_key="a-key")
    with EmbeddedServer(config) as running:
        url = f"http://{running.http_url}"
        with pytest.raises(ServerError) as refusal:
            promote(store, 2, server=LiveServer(url, key="another"))
        assert "REENTRY_CONTROL_KEY" in str(refusal.value.fix)
        assert served_now(running) == 1
        promote(store, 2, server=LiveServer(url, key="a-key"))
        assert served_now(running) == 2
    with pytest.raises(ClientError, match="no server answers") as failure:
        rollback(store, server=LiveServer(url, key="a-key"))
    assert (failure.value.where, failure.value.fix) == (url, "start it, or correct --url")
    assert served_versions(Path(store.location), "reentry_lstm") == [2]
