"""Opening a model repository, in a folder or in an S3-compatible store."""

from __future__ import annotations

from pathlib import Path

from reentry.errors import RepositoryError
from registry.folder_store import FolderStore
from registry.models import DEFAULT_MODEL, MODELS
from registry.s3_store import ObjectStore
from registry.store import CONFIG_FILE, VersionStore


def open_store(location: str | Path, model: str = DEFAULT_MODEL) -> VersionStore:
    """Open the versions of one model.

    The environment configures access to an S3-compatible store, as AWS defines it: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_PROFILE and so on.

    Args:
        location: the model repository, a folder or s3://BUCKET/PREFIX.
        model: name of one of `MODELS`.

    Raises:
        RepositoryError: the model is unknown, the repository does not hold it, or the location is unreachable.
    """
    if model not in MODELS:
        raise RepositoryError(
            "unknown model", where=str(location), expected=" or ".join(MODELS), got=model, fix="correct --model"
        )
    scheme, separator, _ = str(location).partition("://")
    if not separator:
        store: VersionStore = FolderStore(Path(location), MODELS[model])
    elif scheme == "s3":
        store = ObjectStore(str(location), MODELS[model])
    else:
        raise RepositoryError(
            "unknown kind of repository", where=str(location), expected="a folder or s3://BUCKET/PREFIX"
        )
    if store.read(CONFIG_FILE).text is None:
        raise RepositoryError(
            "not a model repository of this program",
            where=store.location,
            expected=f"{model}/{CONFIG_FILE} in it",
            fix="give the model_repository folder of the checkout, or a copy of it, with --repository",
        )
    return store
