"""Aliases in the MLflow model registry follow the labels of a repository."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

import cli
from pipeline.retraining.aliases import mirror_labels, sync_aliases
from registry.models import DEFAULT_MODEL
from registry.open import open_store
from registry.promotion import label_exported, promote
from registry.store import VersionStore
from tests.versions import bare_repository, install
from training.runs.checkpoints import CHECKPOINT_TAG
from training.runs.mlflow_store import experiment_of, quiet
from training.runs.mlflow_store import open_store as open_runs


@pytest.fixture
def client(store_of_runs: str) -> MlflowClient:
    """The registry, without a registered model."""
    client = open_runs(store_of_runs)
    with quiet(), suppress(MlflowException):  # there may be none
        client.delete_registered_model(DEFAULT_MODEL)
    return client


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    """Version 1 in production, and the candidate 2 of another checkpoint."""
    repository = bare_repository(tmp_path)
    install(repository, tmp_path, 1, checkpoint_sha256="1" * 64)
    install(repository, tmp_path, 2, checkpoint_sha256="2" * 64)
    store = open_store(repository)
    promote(store, 1)
    label_exported(store, [2])
    return store


def aliases(client: MlflowClient) -> dict[str, str]:
    """Number of the repository's version that each alias stands for."""
    with quiet():
        found = client.get_registered_model(DEFAULT_MODEL).aliases
        versions = {alias: client.get_model_version(DEFAULT_MODEL, str(number)) for alias, number in found.items()}
    return {alias: version.tags["repository_version"] for alias, version in versions.items()}


def run(store: VersionStore, command: str, *arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["repository", command, "--repository", store.location, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sync_registers_the_labelled_versions_once(client: MlflowClient, store: VersionStore) -> None:
    assert run(store, "sync", "--dry-run").split("\n")[:2] == ["production: version 1", "candidate: version 2"]
    with pytest.raises(MlflowException):
        client.get_registered_model(DEFAULT_MODEL)
    run(store, "sync")
    assert aliases(client) == {"production": "1", "candidate": "2"}
    assert run(store, "sync").strip() == "the aliases equal the labels"
    with quiet():
        assert len(client.search_model_versions(f"name = '{DEFAULT_MODEL}'")) == 2


def test_the_aliases_follow_a_promotion_and_a_rollback(client: MlflowClient, store: VersionStore) -> None:
    run(store, "promote", "candidate", "--reason", "newer")
    assert aliases(client) == {"production": "2"}
    run(store, "rollback")
    assert aliases(client) == {"production": "1"}


def test_sync_repairs_aliases_that_were_changed_by_hand(client: MlflowClient, store: VersionStore) -> None:
    sync_aliases(store)
    with quiet():
        client.delete_registered_model_alias(DEFAULT_MODEL, "production")
        number = client.get_registered_model(DEFAULT_MODEL).aliases["candidate"]
        client.set_registered_model_alias(DEFAULT_MODEL, "production", number)
    assert sync_aliases(store) == ["production: version 1"]
    assert aliases(client) == {"production": "1", "candidate": "2"}


def test_a_version_whose_number_was_used_again_is_registered_again(client: MlflowClient, store: VersionStore) -> None:
    sync_aliases(store)
    store.remove(2)
    install(store.location, Path(store.location).parent / "again", 2, checkpoint_sha256="3" * 64)
    assert sync_aliases(store) == ["candidate: version 2"]
    with quiet():
        number = client.get_registered_model(DEFAULT_MODEL).aliases["candidate"]
        assert client.get_model_version(DEFAULT_MODEL, str(number)).tags[CHECKPOINT_TAG] == "3" * 64


def test_a_registered_version_names_the_run_that_trained_it(
    client: MlflowClient, store: VersionStore, store_of_runs: str
) -> None:
    with quiet():
        made = client.create_run(experiment_of(client, store_of_runs), tags={CHECKPOINT_TAG: "1" * 64}).info.run_id
        sync_aliases(store)
        number = client.get_registered_model(DEFAULT_MODEL).aliases["production"]
        assert client.get_model_version(DEFAULT_MODEL, str(number)).run_id == made
        client.delete_run(made)


def test_a_promotion_succeeds_with_a_warning_if_mlflow_is_away(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("not a database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{broken}")
    with caplog.at_level(logging.WARNING):
        assert "version 2 is in production" in run(store, "promote", "2", "--reason", "newer")
        mirror_labels(store)
    assert "fix: reentry repository sync" in caplog.text


def test_nothing_is_mirrored_without_a_store(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent = tmp_path / "absent.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{absent}")
    mirror_labels(store)
    assert not absent.exists()
