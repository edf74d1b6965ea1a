"""reentry_track serves the version in production, in a folder and on S3, and follows each promotion and rollback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reentry.errors import RepositoryError, ServerError
from registry import config_pbtxt
from registry.formats import FORMATS, TRACK_FILE, Format
from registry.labels import Record
from registry.live_server import LiveServer
from registry.models import TRACK_MODEL
from registry.open import open_store
from registry.promotion import promote, prune, rollback
from registry.store import CONFIG_FILE, VersionStore, manifest_of
from tests.unit.registry.conftest import upload
from tests.versions import REPOSITORY, bare_repository, install

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

CONFIG = (REPOSITORY / TRACK_MODEL.name / CONFIG_FILE).read_text()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    """The versions of reentry_lstm in a repository of each kind that has reentry_track as well."""
    repository = bare_repository(tmp_path)
    if request.param == "folder":
        (repository / TRACK_MODEL.name).mkdir()
        (repository / TRACK_MODEL.name / CONFIG_FILE).write_text(CONFIG)
        return open_store(repository)
    location = f"s3://{request.getfixturevalue('bucket')}/models"
    store = upload((repository / "reentry_lstm" / CONFIG_FILE).read_text(), location)
    track = store.beside(TRACK_MODEL)
    track.write(CONFIG_FILE, CONFIG, over=track.read(CONFIG_FILE))
    return store


def fill(store: VersionStore, scratch: Path, *numbers: int) -> None:
    for number in numbers:
        files = {"model.onnx": b"whole", "step.onnx": b"step", TRACK_FILE: f"track {number}".encode()}
        install(store.location, scratch, number, files=files)


def served(store: VersionStore) -> tuple[list[int], list[int], list[str]]:
    """Versions of reentry_track, those that its configuration pins, and the content of the pinned ones."""
    track = store.beside(TRACK_MODEL)
    pinned = config_pbtxt.pinned_versions(track.read(CONFIG_FILE).text or "")
    return track.versions(), pinned, [track.read(f"{number}/model.onnx").text or "" for number in pinned]


def test_each_promotion_and_rollback_publishes_the_graph_of_its_version(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1, 2, 3)
    assert promote(store, 2).warnings == ()
    assert served(store) == ([2], [2], ["track 2"])
    assert promote(store, 3).warnings == ()
    assert served(store) == ([2, 3], [3], ["track 3"])
    rollback(store)
    assert served(store) == ([2, 3], [2], ["track 2"])
    promote(store, 1)
    assert served(store) == ([1, 2], [1], ["track 1"])  # the one before stays for requests in flight
    prune(store, keep=0)
    assert served(store) == ([1, 2], [1], ["track 1"])
    assert Record.of(store).labels.production == 1


def test_the_published_version_has_a_manifest_of_its_own(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1)
    promote(store, 1)
    published, source = manifest_of(store.beside(TRACK_MODEL), 1), manifest_of(store, 1)
    assert published.files == {"model.onnx": source.files[TRACK_FILE]}
    assert (published.version, published.checkpoint_sha256) == (1, source.checkpoint_sha256)


def test_a_number_that_is_used_again_gets_its_new_graph(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path / "first", 1, 2)
    promote(store, 1)
    promote(store, 2)
    store.remove(1)
    files = {"model.onnx": b"whole", TRACK_FILE: b"another track"}
    install(store.location, tmp_path / "second", 1, files=files)
    promote(store, 1)
    assert served(store) == ([1, 2], [1], ["another track"])


def test_a_version_without_the_graph_is_promoted_with_a_warning(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1)
    promote(store, 1)
    install(store.location, tmp_path, 2)
    (warning,) = promote(store, 2).warnings
    assert "version 2 has no track.onnx" in warning
    assert "it has version 1" in warning
    assert served(store) == ([1], [1], ["track 1"])
    assert Record.of(store).labels.production == 2


def test_a_tensorrt_version_publishes_an_onnx_graph(store: VersionStore, tmp_path: Path) -> None:
    files = {"model.plan": b"engine", "step.plan": b"engine", TRACK_FILE: b"track 1"}
    install(store.location, tmp_path, 1, form=Format.TENSORRT, files=files)
    promote(store, 1)
    assert served(store) == ([1], [1], ["track 1"])
    config = config_pbtxt.read(store.beside(TRACK_MODEL).read(CONFIG_FILE).text or "")
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "")


def test_a_promotion_that_fails_leaves_reentry_track_as_it_was(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, tmp_path, 1, 2)
    promote(store, 1)
    before = store.beside(TRACK_MODEL).read(CONFIG_FILE).text
    original = type(store).write

    def fail_for_the_lstm(self: VersionStore, name: str, text: str, **over: object) -> None:
        if self.model.name == "reentry_lstm" and name == CONFIG_FILE:
            raise RepositoryError("the disk is full")
        original(self, name, text, **over)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "write", fail_for_the_lstm)
    with pytest.raises(RepositoryError, match="the disk is full"):
        promote(store, 2)
    assert store.beside(TRACK_MODEL).read(CONFIG_FILE).text == before
    assert Record.of(store).labels.production == 1


def test_promoting_production_again_takes_back_a_model_that_a_killed_command_left_ahead(
    store: VersionStore, tmp_path: Path
) -> None:
    fill(store, tmp_path, 1, 2)
    promote(store, 2)
    promote(store, 1)
    track = store.beside(TRACK_MODEL)
    before = track.read(CONFIG_FILE)
    ahead = config_pbtxt.pinned(before.text or "", version=2, spec=FORMATS[Format.ONNX])
    track.write(CONFIG_FILE, ahead, over=before)
    promote(store, 1)
    assert served(store) == ([1, 2], [1], ["track 1"])


def test_old_graphs_that_cannot_be_removed_are_a_warning(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, tmp_path, 1, 2, 3)
    promote(store, 1)
    promote(store, 2)

    def fail(self: VersionStore, version: int) -> None:
        raise RepositoryError("not permitted")

    monkeypatch.setattr(type(store), "remove", fail)
    assert promote(store, 3).warnings == ("old versions of reentry_track stay: not permitted",)
    assert served(store)[1] == [3]
    assert Record.of(store).labels.production == 3


class Server(LiveServer):
    """A running server that keeps the configuration of each model, and cannot load version 2 of one model.

    It stands in for Triton: a real one is promoted in tests/integration/test_export_serving.py.
    """

    def __init__(
        self, model: str = "reentry_lstm", *, fails_for: str = "", configs: dict[str, str] | None = None
    ) -> None:
        super().__init__("http://127.0.0.1:1", model, key="key")
        first = {"backend": "onnxruntime", "version_policy": {"specific": {"versions": ["1"]}}}
        names = ("reentry_lstm", "reentry_track")
        self.configs = {name: json.dumps({"name": name, **first}) for name in names} if configs is None else configs
        self.fails_for = fails_for

    def for_model(self, model: str) -> Server:
        return Server(model, fails_for=self.fails_for, configs=self.configs)

    def config(self) -> str:
        if self.model not in self.configs:
            raise ServerError("the server has no configuration of it")
        return self.configs[self.model]

    def load(self, config: str | None = None) -> None:
        if self.model == self.fails_for and (config is None or versions_in(config) == ["2"]):
            raise ServerError("the model does not load")
        self.configs[self.model] = config or json.dumps({"name": self.model})

    def versions_by_model(self) -> dict[str, list[str]]:
        return {name: versions_in(config) for name, config in self.configs.items() if name != "reentry_fast"}


def versions_in(config: str) -> list[str]:
    versions: list[str] = json.loads(config)["version_policy"]["specific"]["versions"]
    return versions


@pytest.fixture
def folder_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionStore:
    repository = bare_repository(tmp_path)
    (repository / TRACK_MODEL.name).mkdir()
    (repository / TRACK_MODEL.name / CONFIG_FILE).write_text(CONFIG)
    monkeypatch.setattr("registry.promotion.try_out", lambda *_: None)  # these files are no graphs
    store = open_store(repository)
    fill(store, tmp_path, 1, 2)
    promote(store, 1)
    return store


def test_a_running_server_loads_both_models(folder_store: VersionStore) -> None:
    server = Server()
    promote(folder_store, 2, server=server)
    assert server.versions_by_model() == {"reentry_lstm": ["2"], "reentry_track": ["2"]}


def test_a_server_that_does_not_serve_reentry_track_yet_loads_it(folder_store: VersionStore) -> None:
    server = Server()
    del server.configs["reentry_track"]
    promote(folder_store, 2, server=server)
    assert server.versions_by_model() == {"reentry_lstm": ["2"], "reentry_track": ["2"]}


@pytest.mark.parametrize("fails_for", ["", "reentry_fast"])
def test_a_server_loads_the_ensemble_of_the_graph_or_the_promotion_warns(
    folder_store: VersionStore, fails_for: str
) -> None:
    server = Server(fails_for=fails_for)
    warnings = promote(folder_store, 2, server=server).warnings
    assert ("reentry_fast" in server.configs) == (not fails_for)
    assert [line for line in warnings if "reentry_fast is not served" in line] == list(warnings)
    assert len(warnings) == bool(fails_for)
    assert server.versions_by_model() == {"reentry_lstm": ["2"], "reentry_track": ["2"]}


@pytest.mark.parametrize("model", ["reentry_track", "reentry_lstm"])
def test_a_server_that_cannot_load_one_model_keeps_both(folder_store: VersionStore, model: str) -> None:
    server = Server(fails_for=model)
    before = served(folder_store)[1]
    with pytest.raises(ServerError, match="does not load"):
        promote(folder_store, 2, server=server)
    assert server.versions_by_model() == {"reentry_lstm": ["1"], "reentry_track": ["1"]}
    assert served(folder_store)[1] == before
    assert Record.of(folder_store).labels.production == 1
    assert config_pbtxt.pinned_versions(folder_store.read(CONFIG_FILE).text or "") == [1]
