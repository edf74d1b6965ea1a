"""Check that a store has conditional writes, without which two commits of one version can overwrite each other."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, Final

import pyarrow as pa

from pipeline.lake.lake import Lake
from pipeline.lake.tables import QUARANTINE
from reentry.errors import LakeError

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
    try:
        lake.create(name)
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


def require_conditional_writes(location: str) -> None:
    """Check with two writes of one object that an S3-compatible store refuses the second one.

    Raises:
        LakeError: The store ignores the condition, or is unavailable.
    """
    from botocore.exceptions import BotoCoreError
    from s3fs import S3FileSystem

    files: Any = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    place = f"{location.removeprefix('s3://')}/_conditional-write-{uuid.uuid4().hex}"
    try:
        files.pipe_file(place, b"1", mode="create")
        try:
            files.pipe_file(place, b"2", mode="create")
            refused = False
        except OSError:
            refused = True
        files.rm_file(place)
    except (BotoCoreError, OSError) as error:
        raise LakeError(
            "the store cannot be written",
            where=location,
            got=str(error) or type(error).__name__,
            fix="check that it runs, the bucket, AWS_ENDPOINT_URL and the credentials",
        ) from error
    if not refused:
        raise LakeError(
            "the store has no conditional writes, so that concurrent commits would overwrite each other",
            where=location,
            expected="a PUT with If-None-Match: * of an existing object to be refused",
            fix="use a store that has them; reentry doctor --store checks one",
        )


def _row(rule: str) -> pa.Table:
    values: dict[str, Any] = dict.fromkeys(QUARANTINE.schema.names)
    texts = dict.fromkeys(("hour", "object", "etag", "content", "status"), "race")
    return pa.Table.from_pylist([{**values, **texts, "rule": rule}], schema=QUARANTINE.schema)


def _remove(lake: Lake) -> None:
    """Remove the table and its folder."""
    if lake.location.startswith("s3://"):
        from s3fs import S3FileSystem

        files: Any = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        place = lake.location.removeprefix("s3://")
        if files.exists(place):
            files.rm(place, recursive=True)
    else:
        import shutil

        shutil.rmtree(lake.location, ignore_errors=True)
