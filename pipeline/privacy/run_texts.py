"""Everything that the recorded training runs contain, for a search."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reentry.errors import InputError
from training.runs.mlflow_store import database, open_store, quiet, tracking_uri, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1000


def run_texts() -> Iterator[tuple[str, bytes]]:
    """Yield the place and the content of each parameter, tag and file of all runs, deleted ones included.

    Nothing is yielded if the local store of runs does not exist.

    Raises:
        ConfigError: The store is unusable.
        InputError: MLflow is not installed.
    """
    uri = tracking_uri()
    file = database(uri)
    if file is not None and not file.is_file():
        return
    try:
        client = open_store(uri)
    except ImportError as error:
        raise InputError(
            "mlflow is not installed, so runs cannot be searched", fix="pip install 'reentry[train]'"
        ) from error
    with quiet(), usable(uri):
        from mlflow.entities import ViewType

        experiments = [each.experiment_id for each in client.search_experiments(ViewType.ALL)]
        token = None
        while True:
            page = client.search_runs(experiments, run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token)
            for run in page:
                place = f"run {run.info.run_id}"
                yield f"{place}: name", str(run.info.run_name).encode()
                for kind, entries in (("parameter", run.data.params), ("tag", run.data.tags)):
                    for name, value in entries.items():
                        yield f"{place}: {kind} {name}", f"{name} {value}".encode()
                with tempfile.TemporaryDirectory(prefix="reentry-audit-") as folder:
                    for path in _artifacts(client, run.info.run_id):
                        copy = Path(client.download_artifacts(run.info.run_id, path, folder))
                        yield f"{place}: file {path}", copy.read_bytes()
            token = page.token
            if not token:
                return


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for each in client.list_artifacts(run_id, folder):
        if each.is_dir:
            yield from _artifacts(client, run_id, each.path)
        else:
            yield each.path
