"""The commit of a run: all files at once, exactly once, with the summary of the run in the history of the table."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from deltalake.transaction import AddAction

from pipeline.bulk.score import Job, PartResult
from pipeline.lake.files import missing_files, missing_of
from pipeline.lake.lake import Lake, NewFiles
from pipeline.lake.storage import Storage
from pipeline.lake.tables import CLEAN, PREDICTIONS
from reentry.errors import LakeError

_KEY: Final = "bulk"
"""Key of a run's summary in the history of the table."""


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


def require_files(lake: Lake, job: Job, results: Sequence[PartResult]) -> None:
    """Check that no row was erased during the run, so that its results do not bring it back; otherwise delete them.

    Raises:
        LakeError: Files of the scored version or of the parts were removed.
    """
    gone = missing_files(lake, CLEAN.name, job.version)
    gone += missing_of(lake, PREDICTIONS.name, [result.path for result in results])
    if gone:
        _discard(lake, job)
        raise LakeError(
            f"{len(gone):,} files were removed during the run, as an erasure does; nothing was committed",
            where=job.source,
            got=gone[0],
            fix=f"score the newest version: lake:{CLEAN.name}",
        )


def discard_erased(lake: Lake, job: Job) -> None:
    """Delete the files of all parts, unless they are committed, if rows of the scored version were erased.

    The files may hold results of erased tracks that were written after the erasure.

    Raises:
        LakeError: The lake is unreachable.
    """
    if missing_files(lake, CLEAN.name, job.version):
        _discard(lake, job)


def _discard(lake: Lake, job: Job) -> None:
    if not lake.committed(PREDICTIONS.name, [_key(job.run)]):
        storage = Storage(lake.location)
        for file in storage.files(f"{PREDICTIONS.name}/run={job.run}"):
            storage.delete(file)


def commit(lake: Lake, summary: BulkSummary, results: Sequence[PartResult], fences: Mapping[str, int]) -> bool:
    """Add the files of all parts to the table, once, in one commit; return whether this call has done it.

    Args:
        lake: The lake.
        summary: Summary of the run.
        results: Results of all parts.
        fences: Numbers of fences before the run read any row.

    Raises:
        LakeError: The lake is unreachable, or rows were erased during the run.
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
    new = NewFiles(add=files, metadata={_KEY: json.dumps(asdict(summary))})
    return lake.commit_files_once(PREDICTIONS.name, _key(summary.run), lambda _table: new, fences=fences)


def _key(run: str) -> str:
    return f"{_KEY}:{run}"


def committed(lake: Lake, run: str) -> BulkSummary | None:
    """Return the summary of a run from the history of the table; None if the run is not committed."""
    if not lake.committed(PREDICTIONS.name, [_key(run)]):
        return None
    with lake.errors(PREDICTIONS.name):
        history = lake.open(PREDICTIONS.name).history()
    summaries = (BulkSummary(**json.loads(entry[_KEY])) for entry in history if _KEY in entry)
    return next(summary for summary in summaries if summary.run == run)
