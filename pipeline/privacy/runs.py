"""Recorded training runs: all their texts, for a search, and marks on those that cannot be reproduced any more."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.lake.lake import Lake
from pipeline.lake.tables import TABLES
from reentry.errors import InputError
from training.runs.mlflow_store import database, open_store, quiet, tracking_uri, usable
from training.runs.parameters import TABLE_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REPRODUCIBLE: Final = "reentry.reproducible"
"""Tag of a run; "no" if a version of a table that it names has lost rows."""
REASON: Final = "reentry.not_reproducible_since"
"""Tag with the time and the name of the erasure or rotation."""

_REFERENCE: Final = re.compile(r"lake:([a-z]+)@(\d+)")
_PAGE: Final = 1000


def mark_runs(
    lake: Lake, versions: Mapping[str, set[int]], name: str, time: str, *, dry_run: bool = False
) -> list[str]:
    """Mark the runs that name one of some versions in a parameter or a tag, and return their ids.

    Args:
        lake: The lake of the tables. A run that names the id of another table is left alone.
        versions: Numbers of versions by table.
        name: Name of the erasure or rotation.
        time: Time of the change, for the tag.
        dry_run: Whether to leave the runs as they are.

    Raises:
        ConfigError: The store of runs is unusable.
        LakeError: The lake is unavailable.
        InputError: MLflow is not installed, although a store of runs exists.
    """
    client = _client() if any(versions.values()) else None
    if client is None:
        return []
    tables = {str(lake.open(table).metadata().id) for table in TABLES if lake.exists(table)}
    marked = []
    with quiet(), usable(tracking_uri()):
        for run in _runs(client):
            is_of_lake = run.data.params.get(TABLE_ID) in (None, *tables)
            if not is_of_lake or not _names_one(run.data.params, run.data.tags, versions):
                continue
            marked.append(str(run.info.run_id))
            if not dry_run and run.data.tags.get(REPRODUCIBLE) != "no":
                client.set_tag(run.info.run_id, REASON, f"{time} {name}")
                client.set_tag(run.info.run_id, REPRODUCIBLE, "no")  # last, so that a killed run repeats both
    return sorted(marked)


def run_texts() -> Iterator[tuple[str, bytes]]:
    """Yield the place and the content of each parameter, tag and file of all runs, deleted ones included.

    Nothing is yielded if the local store of runs does not exist.

    Raises:
        ConfigError: The store is unusable.
        InputError: MLflow is not installed, although a store of runs exists.
    """
    client = _client()
    if client is None:
        return
    with quiet(), usable(tracking_uri()):
        for run in _runs(client, deleted=True):
            place = f"run {run.info.run_id}"
            yield f"{place}: name", str(run.info.run_name).encode()
            for kind, entries in (("parameter", run.data.params), ("tag", run.data.tags)):
                for name, value in entries.items():
                    yield f"{place}: {kind} {name}", f"{name} {value}".encode()
            with tempfile.TemporaryDirectory(prefix="reentry-audit-") as folder:
                for path in _files(client, run.info.run_id):
                    copy = Path(client.download_artifacts(run.info.run_id, path, folder))
                    yield f"{place}: file {path}", copy.read_bytes()


def _client() -> MlflowClient | None:
    """Return a client of the store of runs; None if the local store does not exist."""
    file = database(tracking_uri())
    if file is not None and not file.is_file():
        return None
    try:
        return open_store(tracking_uri())
    except ImportError as error:
        raise InputError(
            "mlflow is not installed, although runs are recorded", fix="pip install 'reentry[train]'"
        ) from error


def _runs(client: MlflowClient, *, deleted: bool = False) -> Iterator[Run]:
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    experiments = [each.experiment_id for each in client.search_experiments(view)]
    token = None
    while True:
        page = client.search_runs(experiments, run_view_type=view, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _files(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for each in client.list_artifacts(run_id, folder):
        if each.is_dir:
            yield from _files(client, run_id, each.path)
        else:
            yield each.path


def _names_one(params: Mapping[str, str], tags: Mapping[str, str], versions: Mapping[str, set[int]]) -> bool:
    return any(
        int(number) in versions.get(table, ())
        for text in (*params.values(), *tags.values())
        for table, number in _REFERENCE.findall(text)
    )
