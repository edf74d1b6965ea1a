"""The store of runs: MLflow's, a SQLite file under artifacts/ unless MLFLOW_TRACKING_URI names another.

MLflow takes seconds to import, so it is imported when a store is opened and not before.
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
"""Where runs are kept when `URI_VARIABLE` is not set; their files are in a folder beside it."""
EXPERIMENT: Final = "reentry"

_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing of a training leaves the machine unasked
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # or it tells of its tables
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its own seven try for minutes where no server is
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Of MLflow's, where the environment does not say otherwise."""


def tracking_uri() -> str:
    """Of the store in use."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{LOCAL_STORE.absolute()}"


def open_store(uri: str) -> MlflowClient:
    """A client of the store, which is made where it is a file that is not there.

    Raises:
        InputError: the store cannot be used.
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
            client.get_experiment_by_name(EXPERIMENT)  # the first word with a server
    return client


@contextmanager
def usable(uri: str) -> Iterator[None]:
    """Say in one line what keeps the block from using the store of `uri`.

    Raises:
        ConfigError: for any error.
    """
    try:
        yield
    except Exception as error:  # of MLflow, SQLAlchemy, requests: whatever the store is made of
        raise ConfigError(
            "the store of runs cannot be used",
            where=uri,
            got=first_line(error),
            fix=f"another {URI_VARIABLE}, or `reentry train --no-track`",
        ) from error


def experiment_of(client: MlflowClient, uri: str) -> str:
    """Id of the experiment that holds the runs; it is made where it is not there."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    file = database(uri)
    # MLflow's own choice is a folder where the command happens to run.
    place = None if file is None else str(file.absolute().with_name("files"))
    return str(client.create_experiment(EXPERIMENT, artifact_location=place))


def database(uri: str) -> Path | None:
    """The file of a store that is SQLite's; None of another, and of one in memory."""
    parts = urlsplit(uri)
    if parts.scheme.split("+")[0] != "sqlite" or parts.path in ("", "/", "/:memory:"):
        return None
    return Path(parts.path.removeprefix("/"))


@contextmanager
def quiet() -> Iterator[None]:
    """MLflow set up as `_SETTINGS` say, and its dependencies kept from telling of their deprecations."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: Exception) -> str:
    """What an error says, cut to what fits in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
