"""A second version beside production: the models that the repository gets for it, in a folder and on S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reentry.errors import ConfigError, RepositoryError
from reentry.serving.repository import ensembles_of, models_of, read_model_config, served_versions
from registry import config_pbtxt
from registry.candidate import candidate_version, serve_candidate, stop_candidate
from registry.formats import FORMATS, Format
from registry.models import CANDIDATE, CANDIDATE_ENSEMBLE_FILES, ENSEMBLE_FILES
from registry.open import open_store
from registry.promotion import promote, prune, rollback
from registry.store import CONFIG_FILE, VersionStore, manifest_of
from tests.conftest import copy_repository
from tests.unit.cli.test_repository import done, one_line
from tests.versions import REPOSITORY, install

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

ENSEMBLE_CONFIG = (REPOSITORY / "reentry" / CONFIG_FILE).read_text()


@pytest.fixture
def compared(store: VersionStore, tmp_path: Path) -> VersionStore:
    """A store with the ensemble, version 1 in production, and versions 2 and 3."""
    ensemble = store.beside(ENSEMBLE_FILES)
    ensemble.write(CONFIG_FILE, ENSEMBLE_CONFIG, over=ensemble.read(CONFIG_FILE))
    for number in (1, 2, 3):
        install(store.location, tmp_path, number, files={"model.onnx": b"%d" % number, "step.onnx": b"step"})
    promote(store, 1)
    return store


def network_of(store: VersionStore) -> tuple[list[int], list[int]]:
    """Versions of the candidate's network, and those that its configuration pins."""
    network = store.beside(CANDIDATE)
    text = network.read(CONFIG_FILE).text
    return network.versions(), [] if text is None else config_pbtxt.pinned_versions(text)


def test_the_served_candidate_is_a_copy_of_its_version_and_leaves_production_unchanged(compared: VersionStore) -> None:
    files = (CONFIG_FILE, "labels.json")
    before = [compared.read(name) for name in files]
    assert candidate_version(compared) is None
    served = serve_candidate(compared, 2)
    assert (served.version, served.production, served.warnings) == (2, 1, ())
    assert candidate_version(compared) == 2
    assert network_of(compared) == ([2], [2])
    assert manifest_of(compared.beside(CANDIDATE), 2) == manifest_of(compared, 2)
    serve_candidate(compared, 3)
    assert candidate_version(compared) == 3
    assert network_of(compared) == ([3], [3])
    assert [compared.read(name) for name in files] == before
    assert stop_candidate(compared) == 3
    assert candidate_version(compared) is None
    for model in (CANDIDATE, CANDIDATE_ENSEMBLE_FILES):
        assert compared.beside(model).read(CONFIG_FILE).text is None
        assert compared.beside(model).versions() == []
    assert [compared.read(name) for name in files] == before


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_promotion_rollback_and_prune_keep_the_served_candidate(compared: VersionStore) -> None:
    serve_candidate(compared, 2)
    promote(compared, 3)
    assert prune(compared, keep=0)[0] == []  # 1 is the version before, and 2 is served
    rollback(compared)
    assert candidate_version(compared) == 2
    assert network_of(compared) == ([2], [2])
    stop_candidate(compared)
    assert prune(compared, keep=0)[0] == [2, 3]


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_number_that_is_used_again_is_copied_again(compared: VersionStore, tmp_path: Path) -> None:
    serve_candidate(compared, 2)
    compared.remove(2)
    install(compared.location, tmp_path / "again", 2, files={"model.onnx": b"other", "step.onnx": b"step"})
    serve_candidate(compared, 2)
    assert compared.beside(CANDIDATE).read("2/model.onnx").text == "other"


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_a_version_that_cannot_be_served_changes_nothing(compared: VersionStore, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no version is served as reentry_candidate"):
        stop_candidate(compared)
    install(compared.location, tmp_path, 4, schema_version=1)
    with pytest.raises(RepositoryError, match="another schema version"):
        serve_candidate(compared, 4)
    with pytest.raises(RepositoryError, match="there is no such version"):
        serve_candidate(compared, 9)
    with pytest.raises(ConfigError, match="only versions of reentry_lstm are compared"):
        serve_candidate(compared.beside(CANDIDATE), 2)
    assert candidate_version(compared) is None
    assert network_of(compared) == ([], [])


@pytest.mark.parametrize("store", ["folder"], indirect=True)
def test_an_interrupted_change_restores_the_candidate_before(
    compared: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(compared)
    write = kind.write

    def full(self: VersionStore, name: str, text: str, **arguments: object) -> None:
        if self.model is CANDIDATE_ENSEMBLE_FILES:
            raise RepositoryError("cannot write: No space left on device")
        write(self, name, text, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "write", full)
    with pytest.raises(RepositoryError, match="No space left"):
        serve_candidate(compared, 2)
    monkeypatch.setattr(kind, "write", write)
    assert network_of(compared) == ([], [])
    serve_candidate(compared, 2)
    ensemble = compared.beside(CANDIDATE_ENSEMBLE_FILES)
    text = ensemble.read(CONFIG_FILE).text or ""
    ensemble.write(CONFIG_FILE, text + "# another comment\n", over=ensemble.read(CONFIG_FILE))
    monkeypatch.setattr(kind, "write", full)
    with pytest.raises(RepositoryError, match="No space left"):
        serve_candidate(compared, 3)
    assert candidate_version(compared) == 2
    assert network_of(compared) == ([2], [2])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A whole repository with version 1 in production and version 2 as the candidate, of another format."""
    repository = copy_repository(tmp_path)
    install(repository, tmp_path, 1)
    install(repository, tmp_path, 2, form=Format.ONNX_INT8)
    promote(open_store(repository), 1)
    return repository


def test_the_two_ensembles_differ_in_their_names_and_their_network_alone(repository: Path) -> None:
    serve_candidate(open_store(repository), 2)
    one, other = (read_model_config(repository, name) for name in ("reentry", "reentry_candidate"))
    assert ensembles_of(repository)["reentry_candidate"] == [
        "track_features",
        "reentry_lstm_candidate",
        "track_decision",
    ]
    other.name = one.name
    other.ensemble_scheduling.step[1].model_name = one.ensemble_scheduling.step[1].model_name
    assert one == other
    one, other = (read_model_config(repository, name) for name in ("reentry_lstm", "reentry_lstm_candidate"))
    other.name = one.name
    other.version_policy.CopyFrom(one.version_policy)
    assert other.default_model_filename == FORMATS[Format.ONNX_INT8].whole_file.replace("model.onnx", "")
    other.default_model_filename = one.default_model_filename
    assert one == other
    assert served_versions(repository, "reentry_lstm") == [1]
    assert served_versions(repository, "reentry_lstm_candidate") == [2]
    stop_candidate(open_store(repository))
    assert not [name for name in models_of(repository) if "candidate" in name]
    assert not [path.name for path in repository.iterdir() if "candidate" in path.name]


def test_the_command_serves_the_candidate_and_stops(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = one_line(monkeypatch, capsys, repository, "compare")
    assert "no version is labelled candidate" in error
    assert (
        done(repository, "compare", "2") == "version 2 is served as reentry_candidate, beside version 1 in production\n"
    )
    rows = json.loads(done(repository, "list", "--json"))
    assert [row["labels"] for row in rows] == [["production"], ["served as reentry_candidate"]]
    assert json.loads(done(repository, "show", "2", "--json"))["labels"] == ["served as reentry_candidate"]
    served = json.loads(done(repository, "compare", "2", "--json"))
    assert served == {"version": 2, "production": 1, "warnings": [], "model": "reentry_candidate", "url": None}
    assert done(repository, "compare", "--stop") == "version 2 is no longer served as reentry_candidate\n"
    assert "no version is served as reentry_candidate" in one_line(monkeypatch, capsys, repository, "compare", "--stop")
