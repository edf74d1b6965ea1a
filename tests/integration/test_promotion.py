"""Promotion and rollback under load, on the real server: no request fails, and the new version answers afterwards."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from reentry import schema
from reentry.errors import ClientError, RepositoryError, ServerError
from reentry.serving import EmbeddedServer, ServerConfig
from reentry.serving.repository import served_versions
from registry import config_pbtxt, promotion
from registry.inventory import Version
from registry.live_server import LiveServer
from registry.open import open_store
from registry.promotion import promote, rollback
from registry.store import VersionStore
from tests.conftest import copy_repository
from tests.integration.test_serving import make_tracks, request_inputs
from tests.versions import install, pin

CLIENTS = 4
STEPS = (5, 60, 333, 900)


@dataclass
class Load:
    """What the clients have seen."""

    versions: list[int] = field(default_factory=list)
    """Of the answers, in the order in which they came."""
    errors: list[str] = field(default_factory=list)
    answered: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, more: int) -> None:
        """Until so many more answers, or errors, have come."""
        with self.answered:
            goal = len(self.versions) + len(self.errors) + more
            assert self.answered.wait_for(lambda: len(self.versions) + len(self.errors) >= goal, timeout=60)


@contextmanager
def hammered(server: EmbeddedServer) -> Iterator[Load]:
    """Clients that ask the ensemble without a pause, each for tracks of its own length."""
    load, stop = Load(), threading.Event()

    def ask(steps: int) -> None:
        inputs = request_inputs(make_tracks(2, steps))
        with triton.InferenceServerClient(server.grpc_url) as client:
            while not stop.is_set():
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
    """The version that answers a new request."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(schema.ENSEMBLE.name, request_inputs(make_tracks(1, 5)))
    return int(answer.as_numpy("model_version")[0, 0])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 5; the last three pass every rule, and cannot be loaded, cannot run, and answer nonsense."""
    folder = tmp_path_factory.mktemp("promotion")
    repository = copy_repository(folder)
    pin(repository, 1)
    for number in (1, 2):
        install(repository, folder, number, toy_seed=number)
    install(repository, folder, 3, files={"model.onnx": b"no graph", "step.onnx": b""})
    install(repository, folder, 4, toy_seed=4, toy_fault="run")
    install(repository, folder, 5, toy_seed=5, toy_fault="values")
    return repository


@pytest.fixture(scope="module")
def one_server(repository: Path) -> Iterator[EmbeddedServer]:
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0, instances=2)
    with EmbeddedServer(config) as server:
        yield server


@pytest.fixture
def running(store: VersionStore, one_server: EmbeddedServer) -> EmbeddedServer:
    """With version 1 in production."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "try_out", lambda *_: None)
        promote(store, 1, server=LiveServer(f"http://{one_server.http_url}"))
    return one_server


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial before a change, as on a machine that cannot run one."""
    monkeypatch.setattr(promotion, "try_out", lambda *_: None)


@pytest.fixture
def store(repository: Path) -> VersionStore:
    """With version 1 in production."""
    store = open_store(repository)
    promote(store, 1)
    return store


def test_promotion_and_rollback_fail_no_request_and_change_every_answer_after_them(
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
            # Of the requests on their way at the change, one a client, the old version may still have given the answer.
            late = load.versions[begun + CLIENTS :]
            assert set(late) == {number}
    assert load.errors == []
    assert set(load.versions) == {1, 2}
    assert server.versions() == [1]
    assert json.loads(server.config()) == fitted  # also the instances and threads that `reentry serve` chose


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (3, r"cannot load reentry_lstm: .*model\.onnx is no ONNX model"),
        (4, r"cannot load reentry_lstm: .*model\.onnx does not run: .*Gather"),
        (5, "reentry_probability is not between 0 and 1"),
    ],
)
def test_a_version_that_fails_its_trial_never_reaches_the_server(
    store: VersionStore, running: EmbeddedServer, number: int, problem: str
) -> None:
    asked = running.server_log.read_text().count("loading: reentry_lstm")
    before = [store.read(name) for name in ("config.pbtxt", "labels.json")]
    with pytest.raises(
        RepositoryError, match=f"version {number} is refused: its trial failed: .*{problem}"
    ):
        promote(store, number, server=LiveServer(f"http://{running.http_url}"))
    assert running.server_log.read_text().count("loading: reentry_lstm") == asked
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


def test_the_repository_that_takes_no_change_takes_the_server_back(
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


def test_a_server_that_was_changed_and_a_record_that_was_not_come_together_again(
    store: VersionStore, running: EmbeddedServer, untried: None
) -> None:
    server = LiveServer(f"http://{running.http_url}")
    text = store.read("config.pbtxt").text or ""
    spec = Version(number=2, manifest=None, files={"model.onnx": 1}).spec
    assert spec is not None
    server.serve(server.config(), text, config_pbtxt.pinned(text, version=2, spec=spec))  # and was killed here
    assert served_now(running) == 2
    assert any("version_policy" in line for line in config_pbtxt.differences(text, server.config()))
    with hammered(running) as load:
        promote(store, 2, server=server)
    assert (load.errors, set(load.versions)) == ([], {2})
    assert server.versions() == [2]
    now = config_pbtxt.differences(store.read("config.pbtxt").text or "", server.config())
    assert [line for line in now if "fitted to its machine" not in line] == []


def test_a_server_with_a_key_of_the_user_changes_for_those_who_know_it(store: VersionStore, untried: None) -> None:
    config = ServerConfig(
        model_repository=Path(store.location), http_port=0, grpc_port=0, metrics_port=0, control_key="a-key"
    )
    with EmbeddedServer(config) as running:
        url = f"http://{running.http_url}"
        with pytest.raises(ServerError, match="fix: set REENTRY_CONTROL_KEY to the server's key"):
            promote(store, 2, server=LiveServer(url, key="another"))
        assert served_now(running) == 1
        promote(store, 2, server=LiveServer(url, key="a-key"))
        assert served_now(running) == 2
    with pytest.raises(ClientError, match=r"no server answers: .*fix: start it, or correct --url"):
        rollback(store, server=LiveServer(url, key="a-key"))
    assert served_versions(Path(store.location), "reentry_lstm") == [2]
