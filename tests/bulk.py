"""Bulk scoring in the process of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import pyarrow as pa

from pipeline.bulk.model import BulkModel
from pipeline.bulk.run import BulkConfig
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import PREDICTIONS


class InThisProcess:
    """Workers that compute each task in this process."""

    def __init__(self, _processes: int = 1) -> None:
        self.retried = 0
        self.driver_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, compute: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        return map(compute, tasks)


def config_of(lake: Lake, repository: object, **settings: Any) -> BulkConfig:
    """Settings that score the newest version of `clean` with version 1 of the network."""
    given = {"source": TableReference("clean"), "lake": lake.location, "repository": str(repository)}
    return BulkConfig(**given | {"model_version": "1"} | settings)


def model_of(repository: object) -> BulkModel:
    """Version 1 of the network."""
    return BulkModel.find(str(repository), "1")


def predictions(lake: Lake) -> pa.Table:
    """The table `predictions`, ordered by bucket, track and time."""
    with lake.errors(PREDICTIONS.name):
        rows = lake.open(PREDICTIONS.name).to_pyarrow_table()
    return rows.sort_by([(name, "ascending") for name in ("bucket", "track_id", "step")])
