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

from deltalake.transaction import AddAction
from pyarrow.fs import FileType

from pipeline.bulk.model import BulkModel
from pipeline.bulk.parts import BATCHING, parts_of
from pipeline.bulk.pool import ProcessPool, Workers
from pipeline.bulk.score import Failure, Job, PartResult, score_part
from pipeline.lake.files import file_infos, missing_files
from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, CLEAN, PREDICTIONS
from reentry import __version__
from reentry.decision import DecisionConfig
from reentry.errors import InputError, LakeError, ReentryError
from reentry.runtime.arguments import require_between
from reentry.runtime.cores import cores
from reentry.runtime.pool import MOST_PROCESSES
from reentry.runtime.progress import progress
from reentry.runtime.signals import ended_by_signals
from reentry.schema import SCHEMA_VERSION

_KEY: Final = "bulk"
"""Key of a run's summary in the history of the table."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSummary:
    """Result of a run."""

    run: str
    """Name of the run, the partition of its rows in the table `predictions`."""
    source: str
    """The scored table, such as lake:clean@3."""
    model_version: int
    tracks: int
    rows: int
    onsets: int
    """Number of tracks that enter reentry."""
    parts: int
    reused: int
    """Number of parts that an earlier, interrupted run had scored."""
    retried: int
    """Number of parts that were scored again because their worker was lost; 0 with Ray, which does not report it."""
    driver_bytes: int
    """Number of bytes of tasks and results that passed through the process that started the workers."""
    seconds: float
    """Duration of the run without the commit, s."""
    committed_before: bool = False
    """Whether an earlier run committed the same results, so that this one did nothing."""

    def summary(self) -> str:
        """Return the summary as lines of text."""
        tracks = f"{self.source}: {self.tracks:,} tracks, {self.rows:,} rows, {self.onsets:,} enter reentry"
        if self.committed_before:
            return f"{tracks}\nscored and committed before as run {self.run}; nothing to do"
        extra = f", {self.reused:,} of them in an interrupted run" if self.reused else ""
        extra += f", {self.retried:,} again after a lost worker" if self.retried else ""
        return (
            f"{tracks}\n"
            f"scored by model version {self.model_version} in {self.seconds:.1f} s: {self.parts:,} parts{extra}\n"
            f"results: lake:{PREDICTIONS.name}, run {self.run}"
        )


def score_bulk(config: BulkConfig) -> BulkSummary:
    """Score a version of the table `clean` and add the results to the table `predictions`, once.

    Raises:
        InputError: The table has no rows.
        LakeError: The lake is unreachable, the table or version does not exist, or rows were erased during the run.
        RepositoryError: The model is unreachable, or does not run on this machine.
        ReentryError: Tracks could not be scored, or a part lost too many workers. Finished parts are kept.
        Ended: A signal ended the run. Finished parts are kept.
    """
    begun = time.monotonic()
    lake = Lake(config.lake)
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
    before = _committed(lake, job.run)
    if before is not None:
        return replace(before, committed_before=True)
    with ended_by_signals(), _workers(config) as workers:
        results = _score(job, config.part_rows, workers)
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
    _require_files(lake, job, results)
    return replace(summary, committed_before=not commit(lake, summary, results))


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
    divide = partial(parts_of, job.lake, job.version, part_rows)
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


def _require_files(lake: Lake, job: Job, results: Sequence[PartResult]) -> None:
    """Check that no row was erased during the run, so that its results do not bring it back.

    Raises:
        LakeError: Files of the scored version or of the parts were removed.
    """
    written = file_infos(lake, PREDICTIONS.name, [result.path for result in results])
    gone = missing_files(lake, CLEAN.name, job.version)
    gone += [info.path for info in written if info.type is FileType.NotFound]
    if gone:
        raise LakeError(
            f"{len(gone):,} files were removed during the run, as an erasure does; nothing was committed",
            where=job.source,
            got=gone[0],
            fix=f"score the newest version: lake:{CLEAN.name}",
        )


def commit(lake: Lake, summary: BulkSummary, results: Sequence[PartResult]) -> bool:
    """Add the files of all parts to the table, in one commit, unless that has been done; return whether it was not.

    Raises:
        LakeError: The lake is unreachable.
    """
    now = time.time_ns() // 1_000_000
    files = [
        AddAction(
            path=result.path,
            size=result.size,
            partition_values={"run": summary.run},
            modification_time=now,
            data_change=True,
            stats=json.dumps({"numRecords": result.part.rows}),  # no track ids: the log outlives the rows
        )
        for result in results
    ]
    return lake.add_files_once(PREDICTIONS.name, _key(summary.run), files, metadata={_KEY: json.dumps(asdict(summary))})


def _key(run: str) -> str:
    return f"{_KEY}:{run}"


def _committed(lake: Lake, run: str) -> BulkSummary | None:
    """Return the summary of a run from the history of the table; None if the run is not committed."""
    if not lake.committed(PREDICTIONS.name, [_key(run)]):
        return None
    with lake.errors(PREDICTIONS.name):
        history = lake.open(PREDICTIONS.name).history()
    summaries = (BulkSummary(**json.loads(entry[_KEY])) for entry in history if _KEY in entry)
    return next(summary for summary in summaries if summary.run == run)
