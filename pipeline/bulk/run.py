"""A run of bulk scoring: divide the table into parts, score them by several workers, commit all files at once.

A run is named after its input, its model and its settings. An interrupted run is resumed by the same command: parts
whose files exist are not scored again, and a run that is committed is not committed twice. Files that no commit names
are removed by the maintenance of the lake.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

from pipeline.bulk.commit import BulkSummary, commit, committed, discard_erased, require_files
from pipeline.bulk.model import BulkModel
from pipeline.bulk.pool import ProcessPool, Workers
from pipeline.bulk.score import BATCHING, Failure, Job, PartResult, score_part
from pipeline.lake.lake import Lake
from pipeline.lake.parts import parts_of
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, CLEAN, PREDICTIONS
from reentry import __version__
from reentry.decision import DecisionConfig
from reentry.errors import InputError, ReentryError
from reentry.runtime.arguments import require_between
from reentry.runtime.cores import cores
from reentry.runtime.pool import MOST_PROCESSES
from reentry.runtime.progress import progress
from reentry.runtime.signals import Ended, ended_by_signals
from reentry.schema import SCHEMA_VERSION

_NAMED_FAILURES: Final = 5
"""Number of tracks that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkConfig:
    """Settings of one run."""

    source: TableReference
    """Version of the table `clean`; without a version, the newest one."""
    lake: str
    """Folder, or s3://BUCKET/PREFIX, of the tables."""
    repository: str
    """Model repository, a folder or s3://BUCKET/PREFIX."""
    model_version: str = "production"
    """Number or label of the version that scores."""
    processes: int | None = None
    """Number of worker processes; None for one per core."""
    address: str | None = None
    """Address of a Ray cluster, see `pipeline.bulk.ray_tasks`; None for processes on this machine."""
    part_rows: int = 1_000_000
    """Number of rows at which a part ends. It bounds the memory of a worker and changes no result."""

    def __post_init__(self) -> None:
        if self.source.table != CLEAN.name:
            raise InputError(
                "bulk scoring needs repaired tracks", expected=f"lake:{CLEAN.name}@VERSION", got=str(self.source)
            )
        if self.processes is not None:
            require_between("processes", self.processes, 1, MOST_PROCESSES)
        require_between("rows of a part", self.part_rows, 1, 1_000_000_000)


def score_bulk(config: BulkConfig) -> BulkSummary:
    """Score a version of the table `clean` and add the results to the table `predictions`, once.

    Raises:
        InputError: The table has no rows.
        LakeError: The lake is unreachable, the table or version does not exist, or rows were erased during the run; the
            finished parts are deleted then, because they may hold results of erased tracks.
        RepositoryError: The model is unreachable, or does not run on this machine.
        ReentryError: Tracks could not be scored, or a part lost too many workers. Finished parts are kept.
        Ended: A signal ended the run. Finished parts are kept.
    """
    begun = time.monotonic()
    lake = Lake(config.lake)
    fences = lake.fences(PREDICTIONS.name)
    table = lake.open(CLEAN.name, config.source.version)
    source = TableReference(CLEAN.name, table.version())
    model = BulkModel.find(config.repository, config.model_version)
    job = Job(
        run=run_name(str(table.metadata().id), source, model),
        lake=lake.location,
        version=table.version(),
        source=str(source),
        model=model,
    )
    lake.create(PREDICTIONS.name)
    before = committed(lake, job.run)
    if before is not None:
        return replace(before, committed_before=True)
    try:
        with ended_by_signals(), _workers(config) as workers:
            results = _score(job, config.part_rows, workers)
        require_files(lake, job, results)
        summary = BulkSummary(
            run=job.run,
            source=job.source,
            model_version=model.version,
            tracks=sum(result.part.tracks for result in results),
            rows=sum(result.part.rows for result in results),
            onsets=sum(result.onsets for result in results),
            parts=len(results),
            reused=sum(result.reused for result in results),
            retried=workers.retried,
            driver_bytes=workers.driver_bytes,
            seconds=round(time.monotonic() - begun, 3),
        )
        return replace(summary, committed_before=not commit(lake, summary, results, fences))
    except (ReentryError, Ended):
        discard_erased(lake, job)
        raise


def run_name(table: str, source: TableReference, model: BulkModel) -> str:
    """Return the name of a run: a digest of everything that determines its results.

    Args:
        table: Identity of the table, since a lake that is created again counts its versions from 0.
        source: The table and its version.
        model: The network.
    """
    identity = {
        "table": table,
        "source": str(source),
        "model": [model.version, model.sha256],
        "batching": asdict(BATCHING),
        "decision": asdict(DecisionConfig()),
        "schema": SCHEMA_VERSION,
        "program": __version__,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _workers(config: BulkConfig) -> AbstractContextManager[Workers]:
    if config.address is None:
        return ProcessPool(config.processes or cores())
    from pipeline.bulk.ray_tasks import RayTasks

    return RayTasks(config.address)


def _score(job: Job, part_rows: int, workers: Workers) -> list[PartResult]:
    """Score all parts and return their results, ordered by path.

    Raises:
        ReentryError: Some tracks could not be scored. All other parts are finished first.
    """
    divide = partial(parts_of, job.lake, job.version, part_rows, window=BATCHING.window)
    parts = [part for bucket in workers.map(divide, range(BUCKETS)) for part in bucket]
    if not parts:
        raise InputError("the table has no rows", where=job.source)
    results: list[PartResult] = []
    failures: list[Failure] = []
    with progress("scoring", sum(part.rows for part in parts), "rows") as advance:
        for result in workers.map(partial(score_part, job), parts):
            results.append(result)
            failures += result.failures
            advance(result.part.rows)
    if failures:
        raise _not_scored(job, failures)
    return sorted(results, key=lambda result: result.path)


def _not_scored(job: Job, failures: Sequence[Failure]) -> ReentryError:
    ordered = sorted(failures, key=lambda failure: (failure.bucket, failure.track_id))
    named = [f"track {each.track_id} in bucket {each.bucket}: {each.reason}" for each in ordered[:_NAMED_FAILURES]]
    more = len(ordered) - len(named)
    return ReentryError(
        f"{len(ordered):,} tracks could not be scored, and nothing was committed",
        where=job.source,
        got="; ".join(named) + (f"; and {more:,} more" if more else ""),
        fix="score with another version, or remove these tracks from the landing files; all other parts are kept",
    )
