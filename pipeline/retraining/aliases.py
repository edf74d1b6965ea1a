"""Aliases of the MLflow model registry, which mirror the labels of a model repository.

labels.json is the authority: nothing reads the aliases to decide what is served. Each version of the repository that
has a label is a version of the registered model of the same name, whose tags `repository_version` and
`checkpoint_sha256` say which one it is, and whose run is the one that trained it. MLflow numbers its versions by
itself, so the two numbers differ. A tracking store should mirror one model repository only.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from reentry.errors import InputError, ReentryError
from registry.inventory import Version, find_installed
from registry.labels import Labels, Record
from registry.store import VersionStore
from training.runs.checkpoints import CHECKPOINT_TAG, run_of_checkpoint
from training.runs.mlflow_store import existing_store, open_store, quiet, tracking_uri, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

VERSION_TAG: Final = "repository_version"
"""Tag of a version in MLflow with the number of the version in the repository."""
LABELS: Final = ("production", "candidate")


def sync_aliases(store: VersionStore, *, dry_run: bool = False) -> list[str]:
    """Make the aliases equal to the labels.

    Args:
        store: Versions of one model.
        dry_run: Change nothing.

    Returns:
        The changes, one line each.

    Raises:
        RepositoryError: The labels are unreadable.
        InputError: The tracking store is unusable, or MLflow is not installed.
    """
    uri = tracking_uri()
    try:
        client = open_store(uri)
    except ImportError as error:
        raise InputError("mlflow is not installed", fix="pip install 'reentry[train]'") from error
    return _sync(client, uri, store, Record.of(store).labels, dry_run=dry_run)


def mirror_labels(store: VersionStore) -> None:
    """Make the aliases equal to the labels after a change of the labels, without ever failing that change.

    A failure is a warning. Nothing happens if there is no tracking store.
    """
    try:
        client = existing_store()
        if client is not None:
            _sync(client, tracking_uri(), store, Record.of(store).labels, dry_run=False)
    except ReentryError as error:
        _log.warning(f"the aliases in MLflow do not mirror labels.json ({error}); fix: reentry repository sync")


def _sync(client: MlflowClient, uri: str, store: VersionStore, labels: Labels, *, dry_run: bool) -> list[str]:
    name, changes = store.model.name, []
    with quiet(), usable(uri):
        registered = next(iter(client.search_registered_models(f"name = '{name}'")), None)
        current = dict(registered.aliases) if registered is not None else {}
        if registered is None and not dry_run:
            client.create_registered_model(name, description="Mirrors the labels of a model repository.")
        for label in LABELS:
            version = find_installed(store, getattr(labels, label))
            known = _registered(client, name, version) if registered is not None and version is not None else None
            if version is None and label in current:
                changes.append(f"{label}: removed")
                if not dry_run:
                    client.delete_registered_model_alias(name, label)
            elif version is not None and (known is None or str(current.get(label)) != str(known.version)):
                changes.append(f"{label}: version {version.number}")
                if not dry_run:
                    made = known or _register(client, store, version)
                    client.set_registered_model_alias(name, label, made.version)
    return changes


def _registered(client: MlflowClient, name: str, version: Version) -> Any:
    """Return the version in MLflow that stands for a version of the repository, or None."""
    found = client.search_model_versions(f"name = '{name}' and tags.{VERSION_TAG} = '{version.number}'")
    return next((each for each in found if each.tags.get(CHECKPOINT_TAG) == _checkpoint_of(version)), None)


def _register(client: MlflowClient, store: VersionStore, version: Version) -> Any:
    checkpoint = _checkpoint_of(version)
    return client.create_model_version(
        store.model.name,
        source=store.place(version.number),
        run_id=run_of_checkpoint(client, checkpoint),
        tags={VERSION_TAG: str(version.number), CHECKPOINT_TAG: checkpoint},
    )


def _checkpoint_of(version: Version) -> str:
    return version.manifest.checkpoint_sha256 if version.manifest is not None else "unknown"
