"""Two models in one repository: a change of one leaves the other as it is, and each follows its own rules."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reentry.errors import ConfigError, RepositoryError
from reentry.schema import FEATURES
from registry import config_pbtxt
from registry.inventory import find_all
from registry.labels import Record
from registry.live_server import LiveServer
from registry.models import DEFAULT_MODEL, MODELS
from registry.open import open_store
from registry.promotion import label_exported, promote, prune, rollback
from registry.s3_store import ObjectStore
from registry.store import CONFIG_FILE, LABELS_FILE, VersionStore
from tests.unit.registry.conftest import upload
from tests.versions import IMAGERY, IMAGERY_CONFIG, add_imagery, bare_repository, install, install_imagery

pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

INSTALL = {DEFAULT_MODEL: install, IMAGERY.name: install_imagery}


@pytest.fixture(autouse=True)
def _imagery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the second model, as an entry of `MODELS` does."""
    monkeypatch.setitem(MODELS, IMAGERY.name, IMAGERY)


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """A folder with both models, each without a version."""
    repository = bare_repository(tmp_path)
    add_imagery(repository)
    return str(repository)


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, repository: str) -> str:
    """A repository of each kind with both models."""
    if request.param == "folder":
        return repository
    location = f"s3://{request.getfixturevalue('bucket')}/models"
    upload((Path(repository) / DEFAULT_MODEL / CONFIG_FILE).read_text(), location)
    upload(IMAGERY_CONFIG, location, IMAGERY.name)
    return location


def contents(store: VersionStore) -> dict[str, bytes]:
    """Every file of the store's model, with its content."""
    if isinstance(store, ObjectStore):
        return {path: store._files.cat_file(path, max_concurrency=1) for path in store._files.find(store._root)}
    return {str(path): path.read_bytes() for path in Path(store.place("")).rglob("*") if path.is_file()}


def pinned(store: VersionStore) -> list[int]:
    return config_pbtxt.pinned_versions(store.read(CONFIG_FILE).text or "")


@pytest.mark.parametrize(("changed", "other"), [(DEFAULT_MODEL, IMAGERY.name), (IMAGERY.name, DEFAULT_MODEL)])
def test_every_change_of_one_model_leaves_each_byte_of_the_other(
    location: str, tmp_path: Path, changed: str, other: str
) -> None:
    store, untouched = open_store(location, changed), open_store(location, other)
    INSTALL[other](location, tmp_path, 1)
    promote(untouched, 1)
    before = contents(untouched)
    steps = [
        lambda: [INSTALL[changed](location, tmp_path, number) for number in (1, 2, 3)],
        lambda: promote(store, 1),
        lambda: promote(store, 2),
        lambda: label_exported(store, [3]),
        lambda: rollback(store),
        lambda: promote(store, 3),
        lambda: prune(store, keep=0),
    ]
    for step in steps:
        step()
        assert contents(untouched) == before
    assert (store.versions(), pinned(store)) == ([1, 3], [3])
    assert [change.version for change in Record.of(store).labels.history] == [1, 2, 1, 3]
    assert (untouched.versions(), pinned(untouched)) == ([1], [1])
    assert Record.of(untouched).labels.production == 1


def test_each_model_is_judged_by_its_own_metric_and_schema_version(repository: str, tmp_path: Path) -> None:
    store = open_store(repository, IMAGERY.name)
    for number, miss_rate in ((1, 0.1), (2, 0.2), (3, 0.05)):
        install_imagery(repository, tmp_path, number, miss_rate)
    assert [version.metric("miss_rate") for version in find_all(store)] == [0.1, 0.2, 0.05]
    promote(store, 1)
    with pytest.raises(RepositoryError) as failure:
        promote(store, 2)
    assert failure.value.problem == (
        "version 2 is not promoted: its miss_rate is 0.2, worse than 0.1 of version 1 in production"
    )
    change = promote(store, 3).change
    assert (change.metric, change.previous_metric) == (0.05, 0.1)


def test_a_version_for_the_schema_of_another_model_is_refused(repository: str, tmp_path: Path) -> None:
    install_imagery(repository, tmp_path, 1)
    open_store(repository, DEFAULT_MODEL).install(tmp_path / "imagery-1", 1)
    with pytest.raises(RepositoryError) as failure:
        promote(open_store(repository), 1, reason="hurry")
    assert "another schema version" in failure.value.problem
    assert (failure.value.expected, failure.value.got) == (str(MODELS[DEFAULT_MODEL].schema_version), "1")


def test_a_model_that_is_not_declared_is_refused(repository: str) -> None:
    with pytest.raises(RepositoryError) as failure:
        open_store(repository, "track_features")
    error = failure.value
    assert (error.problem, error.where, error.got) == ("unknown model", repository, "track_features")
    assert error.expected == "reentry_lstm or sensor_imagery"


def test_a_repository_without_the_model_is_refused(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path)
    with pytest.raises(RepositoryError) as failure:
        open_store(repository, IMAGERY.name)
    assert failure.value.expected == "sensor_imagery/config.pbtxt in it"


def test_a_server_handle_for_another_model_is_refused_before_any_change(repository: str, tmp_path: Path) -> None:
    install_imagery(repository, tmp_path, 1)
    store = open_store(repository, IMAGERY.name)
    with pytest.raises(ConfigError) as failure:
        promote(store, 1, server=LiveServer("http://127.0.0.1:9"))
    assert (failure.value.expected, failure.value.got) == ("sensor_imagery", "reentry_lstm")
    assert store.read(LABELS_FILE).text is None


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Method and path of every request to the S3-compatible store, in order."""
    from aiobotocore.httpsession import AIOHTTPSession

    sent: list[str] = []
    send = AIOHTTPSession.send

    async def recorded(session: AIOHTTPSession, request: Any) -> Any:
        sent.append(f"{request.method} {request.url.split('/', 3)[-1]}")
        return await send(session, request)

    monkeypatch.setattr(AIOHTTPSession, "send", recorded)
    return sent


def test_an_operation_on_s3_reads_each_object_once(
    bucket: str, repository: str, tmp_path: Path, requests: list[str]
) -> None:
    config = (Path(repository) / DEFAULT_MODEL / CONFIG_FILE).read_text()
    store = upload(config, f"s3://{bucket}/models")
    for number in (1, 2, 3):
        install(store.location, tmp_path, number)
    promote(store, 1)
    counts = []
    for operation in (lambda: promote(store, 2), lambda: promote(store, 2), lambda: rollback(store)):
        requests.clear()
        operation()
        repeated = {request for request, count in Counter(requests).items() if count > 1}
        assert repeated == {f"HEAD {bucket}"}  # for each file that there is not
        counts.append(len(requests))
    # Two requests for each text or hash, one for each list of files, one for each write; and three that find no
    # config.pbtxt of a derived model.
    assert counts == [25, 20, 25]


def test_the_trial_of_a_network_has_orbit_features_in_the_second_half_of_each_flight() -> None:
    features = MODELS[DEFAULT_MODEL].trial_inputs()["features"]
    known = features[..., FEATURES.index("orbit_known")]
    half = features.shape[1] // 2
    assert not known[:, :half].any()
    assert (known[:, half:] == 1.0).all()
    assert (features[:, half:, FEATURES.index("orbit_drag_deviation")] > 0.0).all()
    assert np.isfinite(features).all()
