"""The derived models serve the version in production, in a folder and on S3, and follow promotions and rollbacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from reentry.errors import RepositoryError, ServerError
from reentry.schema import DERIVED_MODELS, SCAN_GRAPH, STREAM_GRAPH, TRACK_GRAPH, DerivedModel
from registry import config_pbtxt
from registry.formats import FORMATS, Format
from registry.labels import Record
from registry.live_server import LiveServer
from registry.models import DERIVED
from registry.open import open_store
from registry.promotion import promote, prune, rollback
from registry.store import CONFIG_FILE, VersionStore, manifest_of
from tests.unit.registry.conftest import upload
from tests.versions import REPOSITORY, bare_repository, install

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

NAMES = [derived.name for derived in DERIVED_MODELS]
ALL_SERVE_2 = {name: ["2"] for name in ("reentry_lstm", *NAMES)}


def config_of(derived: DerivedModel) -> str:
    return (REPOSITORY / derived.name / CONFIG_FILE).read_text()


def with_derived(repository: Path) -> VersionStore:
    """Put the configurations of the derived models into a repository, and open it."""
    for derived in DERIVED_MODELS:
        (repository / derived.name).mkdir()
        (repository / derived.name / CONFIG_FILE).write_text(config_of(derived))
    return open_store(repository)


@pytest.fixture
def in_folder(tmp_path: Path) -> VersionStore:
    """The versions of reentry_lstm in a folder that has the derived models as well."""
    return with_derived(bare_repository(tmp_path))


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    """The same in a repository of each kind."""
    in_folder: VersionStore = request.getfixturevalue("in_folder")
    if request.param == "folder":
        return in_folder
    text = in_folder.read(CONFIG_FILE).text or ""
    store = upload(text, f"s3://{request.getfixturevalue('bucket')}/models")
    for derived, model in DERIVED.items():
        beside = store.beside(model)
        beside.write(CONFIG_FILE, config_of(derived), over=beside.read(CONFIG_FILE))
    return store


def graphs(number: int, *without: DerivedModel) -> dict[str, bytes]:
    """Files of a version that differ between the derived models and the versions."""
    derived = [derived for derived in DERIVED_MODELS if derived not in without]
    files = {each.file: f"{each.name} {number}".encode() for each in derived}
    return {"model.onnx": b"whole", "step.onnx": b"step", **files}


def fill(store: VersionStore, scratch: Path, *numbers: int) -> None:
    for number in numbers:
        install(store.location, scratch, number, files=graphs(number))


def served_by(store: VersionStore, derived: DerivedModel) -> tuple[list[int], list[int], list[str]]:
    """Versions of a derived model, those that its configuration pins, and the content of the pinned ones."""
    own = store.beside(DERIVED[derived])
    pinned = config_pbtxt.pinned_versions(own.read(CONFIG_FILE).text or "")
    return own.versions(), pinned, [own.read(f"{number}/model.onnx").text or "" for number in pinned]


def assert_all_serve(store: VersionStore, versions: list[int], pinned: int, content: int | None = None) -> None:
    """Check the versions of every derived model, and the one that it serves."""
    for derived in DERIVED_MODELS:
        expected = f"{derived.name} {pinned if content is None else content}"
        assert served_by(store, derived) == (versions, [pinned], [expected])


def test_each_promotion_and_rollback_publishes_the_graph_of_its_version(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1, 2, 3)
    assert promote(store, 2).warnings == ()
    assert_all_serve(store, [2], 2)
    assert promote(store, 3).warnings == ()
    assert_all_serve(store, [2, 3], 3)
    rollback(store)
    assert_all_serve(store, [2, 3], 2)
    promote(store, 1)
    assert_all_serve(store, [1, 2], 1)  # the one before stays for requests in flight
    prune(store, keep=0)
    assert_all_serve(store, [1, 2], 1)
    assert Record.of(store).labels.production == 1


def test_the_published_version_has_a_manifest_of_its_own(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path, 1)
    promote(store, 1)
    source = manifest_of(store, 1)
    for derived, model in DERIVED.items():
        published = manifest_of(store.beside(model), 1)
        assert published.files == {"model.onnx": source.files[derived.file]}
        assert (published.version, published.checkpoint_sha256) == (1, source.checkpoint_sha256)


def test_a_number_that_is_used_again_gets_its_new_graph(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path / "first", 1, 2)
    promote(store, 1)
    promote(store, 2)
    store.remove(1)
    install(store.location, tmp_path / "second", 1, files=graphs(7))
    promote(store, 1)
    assert_all_serve(store, [1, 2], 1, content=7)


def test_an_outdated_graph_with_a_number_that_is_used_again_is_removed(store: VersionStore, tmp_path: Path) -> None:
    fill(store, tmp_path / "first", 1)
    promote(store, 1)
    store.remove(1)
    without = (TRACK_GRAPH, STREAM_GRAPH)
    install(store.location, tmp_path / "second", 1, files=graphs(7, *without))
    warnings = promote(store, 1).warnings
    assert [line.split(";")[0] for line in warnings] == [
        f"version 1 has no {derived.file}, so {derived.name} is not served any more" for derived in without
    ]
    for derived in without:
        assert store.beside(DERIVED[derived]).versions() == []
    assert served_by(store, SCAN_GRAPH) == ([1], [1], ["scan_step 7"])


def test_an_outdated_graph_that_is_not_served_is_removed_and_the_served_one_stays(
    in_folder: VersionStore, tmp_path: Path
) -> None:
    fill(in_folder, tmp_path / "first", 1, 2)
    promote(in_folder, 1)
    promote(in_folder, 2)
    in_folder.remove(1)
    install(in_folder.location, tmp_path / "second", 1, files=graphs(7, TRACK_GRAPH))
    (warning,) = promote(in_folder, 1).warnings
    assert "reentry_track does not change; it has version 2" in warning
    assert served_by(in_folder, TRACK_GRAPH) == ([2], [2], ["reentry_track 2"])


@pytest.mark.parametrize(
    "missing",
    [DERIVED_MODELS, (STREAM_GRAPH,), (TRACK_GRAPH, STREAM_GRAPH)],
    ids=["an earlier release", "a large network", "orbit features"],
)
def test_a_version_without_a_graph_is_promoted_with_a_warning(
    in_folder: VersionStore, tmp_path: Path, missing: tuple[DerivedModel, ...]
) -> None:
    fill(in_folder, tmp_path, 1)
    promote(in_folder, 1)
    install(in_folder.location, tmp_path, 2, files=graphs(2, *missing))
    warnings = promote(in_folder, 2).warnings
    assert len(warnings) == len(missing)
    for warning, derived in zip(warnings, missing, strict=True):
        assert f"version 2 has no {derived.file}" in warning
        assert "it has version 1" in warning
    for derived in DERIVED_MODELS:
        number = 1 if derived in missing else 2
        assert served_by(in_folder, derived)[1:] == ([number], [f"{derived.name} {number}"])
    assert Record.of(in_folder).labels.production == 2


@pytest.mark.parametrize("kept", DERIVED_MODELS, ids=lambda derived: derived.name)
def test_a_repository_may_hold_some_of_the_derived_models(
    in_folder: VersionStore, tmp_path: Path, kept: DerivedModel
) -> None:
    store = in_folder
    for derived in set(DERIVED_MODELS) - {kept}:
        shutil.rmtree(Path(store.location) / derived.name)
    fill(store, tmp_path, 1)
    assert promote(store, 1).warnings == ()
    assert served_by(store, kept)[1:] == ([1], [f"{kept.name} 1"])
    assert {path.name for path in Path(store.location).iterdir()} == {"reentry_lstm", kept.name}


def test_a_tensorrt_version_publishes_an_onnx_graph(store: VersionStore, tmp_path: Path) -> None:
    engines = {name.replace(".onnx", ".plan"): b"engine" for name in ("model.onnx", "step.onnx")}
    files = engines | {derived.file: graphs(1)[derived.file] for derived in DERIVED_MODELS}
    install(store.location, tmp_path, 1, form=Format.TENSORRT, files=files)
    promote(store, 1)
    assert_all_serve(store, [1], 1)
    for model in DERIVED.values():
        config = config_pbtxt.read(store.beside(model).read(CONFIG_FILE).text or "")
        assert (config.backend, config.default_model_filename) == ("onnxruntime", "")


@pytest.mark.parametrize("model", ["reentry_lstm", *NAMES])
def test_a_promotion_that_fails_leaves_every_derived_model_as_it_was(
    in_folder: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    fill(in_folder, tmp_path, 1, 2)
    promote(in_folder, 1)
    before = [in_folder.beside(each).read(CONFIG_FILE).text for each in DERIVED.values()]
    original = type(in_folder).write

    def fail(self: VersionStore, name: str, text: str, **over: object) -> None:
        if self.model.name == model and name == CONFIG_FILE and "2" in text.split("specific")[1]:
            raise RepositoryError("the disk is full")
        original(self, name, text, **over)  # type: ignore[arg-type]

    monkeypatch.setattr(type(in_folder), "write", fail)
    with pytest.raises(RepositoryError, match="the disk is full"):
        promote(in_folder, 2)
    assert [in_folder.beside(each).read(CONFIG_FILE).text for each in DERIVED.values()] == before
    assert Record.of(in_folder).labels.production == 1


def test_promoting_production_again_takes_back_a_model_that_a_killed_command_left_ahead(
    in_folder: VersionStore, tmp_path: Path
) -> None:
    fill(in_folder, tmp_path, 1, 2)
    promote(in_folder, 2)
    promote(in_folder, 1)
    track = in_folder.beside(DERIVED[TRACK_GRAPH])
    before = track.read(CONFIG_FILE)
    ahead = config_pbtxt.pinned(before.text or "", version=2, spec=FORMATS[Format.ONNX])
    track.write(CONFIG_FILE, ahead, over=before)
    promote(in_folder, 1)
    assert served_by(in_folder, TRACK_GRAPH) == ([1, 2], [1], ["reentry_track 1"])


def test_old_graphs_that_cannot_be_removed_are_a_warning(
    in_folder: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(in_folder, tmp_path, 1, 2, 3)
    promote(in_folder, 1)
    promote(in_folder, 2)

    def fail(self: VersionStore, version: int) -> None:
        raise RepositoryError("not permitted")

    monkeypatch.setattr(type(in_folder), "remove", fail)
    warnings = promote(in_folder, 3).warnings
    assert warnings == tuple(f"old versions of {name} stay: not permitted" for name in NAMES)
    assert [served_by(in_folder, derived)[1] for derived in DERIVED_MODELS] == [[3]] * len(NAMES)
    assert Record.of(in_folder).labels.production == 3


class Server(LiveServer):
    """A running server that keeps the configuration of each model, and cannot load version 2 of one model.

    It stands in for Triton: a real one is promoted in tests/integration/test_export_serving.py.
    """

    def __init__(
        self, model: str = "reentry_lstm", *, fails_for: str = "", configs: dict[str, str] | None = None
    ) -> None:
        super().__init__("http://127.0.0.1:1", model, key="key")
        first = {"backend": "onnxruntime", "version_policy": {"specific": {"versions": ["1"]}}}
        names = ("reentry_lstm", *NAMES)
        self.configs = {name: json.dumps({"name": name, **first}) for name in names} if configs is None else configs
        self.fails_for = fails_for

    def for_model(self, model: str) -> Server:
        return Server(model, fails_for=self.fails_for, configs=self.configs)

    def config(self) -> str:
        if self.model not in self.configs:
            raise ServerError("the server has no configuration of it")
        return self.configs[self.model]

    def load(self, config: str | None = None, *, wait: bool = True) -> None:  # noqa: ARG002  # nothing to wait for
        if self.model == self.fails_for and (config is None or versions_in(config) == ["2"]):
            raise ServerError("the model does not load")
        self.configs[self.model] = config or json.dumps({"name": self.model})

    def wait(self, config: str) -> None:
        assert self.configs[self.model] == config

    def unload(self) -> None:
        del self.configs[self.model]

    def versions_by_model(self) -> dict[str, list[str]]:
        needing = {model.name for derived in DERIVED_MODELS for model in derived.needed_by}
        return {name: versions_in(config) for name, config in self.configs.items() if name not in needing}


def versions_in(config: str) -> list[str]:
    versions: list[str] = json.loads(config)["version_policy"]["specific"]["versions"]
    return versions


@pytest.fixture
def folder_store(in_folder: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionStore:
    monkeypatch.setattr("registry.promotion.try_out", lambda *_: None)  # these files are no graphs
    fill(in_folder, tmp_path, 1, 2)
    promote(in_folder, 1)
    return in_folder


def test_a_running_server_loads_all_models(folder_store: VersionStore) -> None:
    server = Server()
    assert promote(folder_store, 2, server=server).warnings == ()
    assert server.versions_by_model() == ALL_SERVE_2


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_does_not_serve_a_derived_model_yet_loads_it(folder_store: VersionStore, name: str) -> None:
    server = Server()
    del server.configs[name]
    promote(folder_store, 2, server=server)
    assert server.versions_by_model() == ALL_SERVE_2


@pytest.mark.parametrize("fails_for", ["", "reentry_fast", "reentry_scan"])
def test_a_server_loads_the_models_that_need_a_graph_or_the_promotion_warns(
    folder_store: VersionStore, fails_for: str
) -> None:
    server = Server(fails_for=fails_for)
    warnings = promote(folder_store, 2, server=server).warnings
    needing = {model.name for derived in DERIVED_MODELS for model in derived.needed_by}
    assert needing - set(server.configs) == ({fails_for} if fails_for else set())
    assert [line.split(",")[0] for line in warnings] == ([f"{fails_for} is not served"] if fails_for else [])
    assert server.versions_by_model() == ALL_SERVE_2


@pytest.mark.parametrize("served_before", [True, False])
@pytest.mark.parametrize("model", ["reentry_lstm", *NAMES])
def test_a_server_that_cannot_load_one_model_keeps_all_as_they_were(
    folder_store: VersionStore, model: str, served_before: bool
) -> None:
    server = Server(fails_for=model)
    if not served_before:
        for name in NAMES:
            del server.configs[name]
    configs = dict(server.configs)
    with pytest.raises(ServerError, match="does not load"):
        promote(folder_store, 2, server=server)
    if not served_before:
        assert server.configs == configs
    assert server.versions_by_model() == {name: ["1"] for name in configs}
    assert_all_serve(folder_store, [1, 2], 1)
    assert Record.of(folder_store).labels.production == 1
    assert config_pbtxt.pinned_versions(folder_store.read(CONFIG_FILE).text or "") == [1]


def test_a_model_that_cannot_be_restored_does_not_keep_the_others_from_it(folder_store: VersionStore) -> None:
    server = Server(fails_for="reentry_lstm")
    before = dict(server.configs)
    original = Server.load

    def load(self: Server, config: str | None = None, *, wait: bool = True) -> None:
        if self.model == "scan_step" and config is not None and versions_in(config) == ["1"]:
            raise ServerError("the server is overloaded")
        original(self, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "load", load)
        with pytest.raises(RepositoryError, match=r"does not load.*scan_step could not be restored: .*overloaded"):
            promote(folder_store, 2, server=server)
    versions = {name: versions_in(config) for name, config in before.items()} | {"scan_step": ["2"]}
    assert server.versions_by_model() == versions


@pytest.fixture
def reused(folder_store: VersionStore, tmp_path: Path) -> VersionStore:
    """The store after version 1, which is in production, was replaced by one without a graph of whole tracks."""
    folder_store.remove(1)
    install(folder_store.location, tmp_path / "again", 1, files=graphs(7, TRACK_GRAPH))
    return folder_store


def full_server(**options: str) -> Server:
    """A running server that also serves the models that need a derived one."""
    server = Server(**options)
    for model in (model for derived in DERIVED_MODELS for model in derived.needed_by):
        server.configs[model.name] = json.dumps({"name": model.name, "fitted": True})
    return server


def test_a_running_server_ends_an_outdated_graph_and_the_models_that_need_it(reused: VersionStore) -> None:
    server = full_server()
    before = set(server.configs)
    promote(reused, 1, server=server)
    assert before - set(server.configs) == {model.name for model in TRACK_GRAPH.served_with}
    assert reused.beside(DERIVED[TRACK_GRAPH]).versions() == []


def test_a_promotion_that_fails_keeps_an_outdated_graph_and_the_models_that_need_it(
    reused: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = full_server()
    before = dict(server.configs)
    original = Server.load

    def load(self: Server, config: str | None = None, *, wait: bool = True) -> None:
        if self.model == "scan_step" and TRACK_GRAPH.name not in self.configs:
            raise ServerError("the model does not load")
        original(self, config, wait=wait)

    monkeypatch.setattr(Server, "load", load)
    with pytest.raises(ServerError, match="does not load"):
        promote(reused, 1, server=server)
    assert {name: json.loads(config) for name, config in server.configs.items()} == {
        name: json.loads(config) for name, config in before.items()
    }
    assert served_by(reused, TRACK_GRAPH) == ([1], [1], ["reentry_track 1"])
