"""Which kind of store a model repository is in."""

from __future__ import annotations

from pathlib import Path

from reentry.errors import RepositoryError
from reentry.schema import REENTRY_LSTM
from registry.folder_store import FolderStore
from registry.s3_store import ObjectStore
from registry.store import CONFIG_FILE, VersionStore


def open_store(location: str | Path) -> VersionStore:
    """The store of a model repository: a folder, or s3://bucket/prefix.

    What an S3-compatible store is reached by is in the environment, as AWS has it: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_PROFILE and their like.

    Raises:
        RepositoryError: there is no repository of this program, or it cannot be reached.
    """
    scheme, separator, _ = str(location).partition("://")
    if not separator:
        store: VersionStore = FolderStore(Path(location))
    elif scheme == "s3":
        store = ObjectStore(str(location))
    else:
        raise RepositoryError(
            "not a kind of repository that is known", where=str(location), expected="a folder or s3://BUCKET/PREFIX"
        )
    if store.read(CONFIG_FILE).text is None:
        raise RepositoryError(
            "not a model repository of this program",
            where=store.location,
            expected=f"{REENTRY_LSTM.name}/{CONFIG_FILE} in it",
            fix="give the model_repository folder of the checkout, or a copy of it, with --repository",
        )
    return store
