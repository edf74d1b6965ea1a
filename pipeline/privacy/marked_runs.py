"""Marks on recorded training runs whose data was changed afterwards, so that nobody expects to reproduce them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pipeline.lake.lake import Lake
from pipeline.lake.tables import TABLES
from reentry.errors import InputError
from training.runs.mlflow_store import database, open_store, quiet, tracking_uri, usable
from training.runs.parameters import TABLE_ID

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
    uri = tracking_uri()
    file = database(uri)
    if not any(versions.values()) or (file is not None and not file.is_file()):
        return []
    try:
        client = open_store(uri)
    except ImportError as error:
        raise InputError(
            "mlflow is not installed, so affected runs cannot be marked", fix="pip install 'reentry[train]'"
        ) from error
    tables = {str(lake.open(table).metadata().id) for table in TABLES if lake.exists(table)}
    marked = []
    with quiet(), usable(uri):
        experiments = [each.experiment_id for each in client.search_experiments()]
        token = None
        while True:
            page = client.search_runs(experiments, max_results=_PAGE, page_token=token)
            for run in page:
                is_of_lake = run.data.params.get(TABLE_ID) in (None, *tables)
                if not is_of_lake or not _names_one(run.data.params, run.data.tags, versions):
                    continue
                marked.append(str(run.info.run_id))
                if not dry_run and run.data.tags.get(REPRODUCIBLE) != "no":
                    client.set_tag(run.info.run_id, REASON, f"{time} {name}")
                    client.set_tag(run.info.run_id, REPRODUCIBLE, "no")  # last, so that a killed run repeats both
            token = page.token
            if not token:
                return sorted(marked)


def _names_one(params: Mapping[str, str], tags: Mapping[str, str], versions: Mapping[str, set[int]]) -> bool:
    return any(
        int(number) in versions.get(table, ())
        for text in (*params.values(), *tags.values())
        for table, number in _REFERENCE.findall(text)
    )
