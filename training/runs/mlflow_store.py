"""The MLflow tracking store: a SQLite file under artifacts/, unless MLFLOW_TRACKING_URI names another store.

MLflow takes seconds to import, so it is imported only when a store is opened.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from reentry.errors import ConfigError
from reentry.runtime.files import writing

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
LOCAL_STORE: Final = Path("artifacts/runs/mlflow.db")
"""Database of the runs if `URI_VARIABLE` is not set. The artifacts of the runs are in a folder beside it."""
EXPERIMENT: Final = "reentry"

_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing about a training leaves the machine unless the user asks for it
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # otherwise it logs the creation of its tables
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its default of seven takes minutes if there is no server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Defaults for MLflow's environment variables."""


def tracking_uri() -> str:
    """URI of the store in use."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{LOCAL_STORE.absolute()}"


def open_store(uri: str) -> MlflowClient:
    """Client for the store. A missing SQLite file is created.

    Raises:
        InputError: the store is unusable.
        ImportError: MLflow is not installed.
    """
    file = database(uri)
    if file is not None:
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        from mlflow import MlflowClient

        with usable(uri):
            client = MlflowClient(uri)
            client.get_experiment_by_name(EXPERIMENT)  # the client connects to a server only at its first request
    return client


def existing_store() -> MlflowClient | None:
    """Client for the store in use; None if it does not exist yet, or if MLflow is not installed.

    Raises:
        InputError: the store is unusable.
    """
    uri = tracking_uri()
    file = database(uri)
    if file is not None and not file.is_file():
        return None
    try:
        return open_store(uri)
    except ImportError:
        return None


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """Report any error of the store in one line.

    Raises:
        ConfigError: the block raised an error.
    """
    try:
        yield
    except Exception as error:  # from MLflow, SQLAlchemy or requests, depending on the store
        raise ConfigError(
            "the MLflow tracking store is unusable",
            where=uri,
            got=first_line(error),
            fix=f"set {URI_VARIABLE} to another store, or run `reentry train --no-track`",
        ) from error


def experiment_of(client: MlflowClient, uri: str) -> str:
    """Id of the experiment that holds the runs. A missing experiment is created."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    file = database(uri)
    # MLflow's default is a folder in the current directory.
    artifacts = None if file is None else str(file.absolute().with_name("files"))
    return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))


def database(uri: str) -> Path | None:
    """File of a SQLite store; None for an in-memory database or another kind of store."""
    parts = urlsplit(uri)
    if parts.scheme.split("+")[0] != "sqlite" or parts.path in ("", "/", "/:memory:"):
        return None
    return Path(parts.path.removeprefix("/"))


@contextmanager
def quiet() -> Iterator[None]:
    """Apply `_SETTINGS` where the environment has no value, and silence warnings of MLflow and its dependencies."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: Exception) -> str:
    """First line of an error message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
