"""A race of writers, which shows whether a store can hold a lake."""

from __future__ import annotations

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, Final

import pyarrow as pa

from pipeline.lake.lake import Lake
from pipeline.lake.object_store import object_store
from pipeline.lake.tables import QUARANTINE

WRITERS: Final = 8
"""Number of concurrent writers in the race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceReport:
    """Result of a race."""

    location: str
    same_key: int
    """Number of writers that committed the same key; 1 is right."""
    rows: int
    """Number of rows that are in the table afterwards."""
    expected_rows: int

    @property
    def passed(self) -> bool:
        """Whether one writer won, and no row was lost or doubled."""
        return self.same_key == 1 and self.rows == self.expected_rows

    def summary(self) -> str:
        """Return the result as text."""
        verdict = "conditional writes work" if self.passed else "this store cannot hold a lake"
        return (
            f"{self.location}: {verdict}; {WRITERS} writers of one key: {self.same_key} committed (expected 1); "
            f"rows of all writers: {self.rows} (expected {self.expected_rows})"
        )


def race(location: str) -> RaceReport:
    """Let several writers commit the same key, and one key each, to a table of its own, which is removed afterwards.

    Raises:
        LakeError: The store is unavailable, or fails before the race.
    """
    name = QUARANTINE.name
    lake = Lake(f"{location.rstrip('/')}/race-{uuid.uuid4().hex}")
    lake.create(name)
    try:
        start = Barrier(WRITERS)

        def run(writer: int) -> int:
            own = Lake(lake.location)
            start.wait()
            won = own.commit_once(name, ["the same"], lambda _new, _table: _row("the same"))
            own.commit_once(name, [f"writer {writer}"], lambda _new, _table: _row(f"writer {writer}"))
            return len(won)

        with ThreadPoolExecutor(WRITERS) as pool:
            committed = sum(pool.map(run, range(WRITERS)))
        rows = lake.open(name).to_pyarrow_dataset().count_rows()
    finally:
        _remove(lake)
    return RaceReport(location=location, same_key=committed, rows=rows, expected_rows=WRITERS + 1)


def _row(rule: str) -> pa.Table:
    values: dict[str, Any] = dict.fromkeys(QUARANTINE.schema.names)
    texts = dict.fromkeys(("hour", "object", "etag", "content", "status"), "race")
    return pa.Table.from_pylist([{**values, **texts, "rule": rule}], schema=QUARANTINE.schema)


def _remove(lake: Lake) -> None:
    """Remove the table and its folder."""
    if lake.location.startswith("s3://"):
        files = object_store()
        place = lake.location.removeprefix("s3://")
        if files.exists(place):
            files.rm(place, recursive=True)
    else:
        shutil.rmtree(lake.location, ignore_errors=True)
