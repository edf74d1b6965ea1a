"""Rows of the inference log for the scored tracks of a job, which a worker stores before the job ends.

The id of a row follows from job and track, so a repetition, also by another worker, stores no row twice.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway import metrics
from gateway.database.engine import Database
from gateway.ids import derived_id
from gateway.inference_log.log import insert_rows
from gateway.inference_log.rows import LogRow
from gateway.jobs.leases import Lease
from gateway.jobs.scored_tracks import read_rows

_BATCH: Final = 500
"""Rows of one transaction, so that no other writer waits long."""


def steps_of(path: Path) -> int:
    """Return the number of steps of all tracks in a file of `ScoredTracks`."""
    return sum(row["steps"] for row in read_rows(path))


async def store_rows(database: Database, lease: Lease, path: Path) -> None:
    """Store the rows in a file of `ScoredTracks`.

    Raises:
        DatabaseUnavailableError: the database does not answer; the rows may be stored again.
    """
    sender: dict[str, Any] = {
        "account_id": lease.account_id,
        "key_id": lease.key_id,
        "request_id": lease.request_id,
    }
    rows = read_rows(path)
    while batch := list(islice(rows, _BATCH)):
        logged = [LogRow(id=derived_id("trk", lease.job_id, str(row["track_id"])), **sender, **row) for row in batch]
        async with database.writing() as connection:
            await insert_rows(connection, logged)
        metrics.LOG_ROWS.inc(len(logged))
