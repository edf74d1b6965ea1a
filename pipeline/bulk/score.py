"""Scoring of one part: read its rows, score its tracks, write one file below the table `predictions`.

The file appears complete or not at all. A part whose file exists is not scored again.

Shapes: N rows, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FileType

from client.batching import BatchConfig, RequestBatch, batches
from pipeline.bulk.model import BulkModel, Scorer, scorer_of
from pipeline.lake.lake import Lake
from pipeline.lake.parts import Part, clean_rows, read_part
from pipeline.lake.tables import CLEAN, PREDICTIONS, STEP
from reentry.errors import LakeError
from reentry.schema import MEASUREMENT_COLUMNS, NO_ONSET_TIMESTAMP, TIMESTAMP, TRACK_ID
from reentry.tracks import Track

BATCHING: Final = BatchConfig(tracks=16, window=131_072)
"""Limits of one run of the network. A window is the tracks, in order of their ids, up to this number of steps. Tracks
share a batch only with their neighbours in a window, and a part is a sequence of whole windows, so that the results
depend neither on the size of the parts nor on the number of workers."""
_ONSETS: Final = b"onsets"
"""Key, in the metadata of a file, of the number of tracks that enter reentry."""
_FILE_SCHEMA: Final = pa.schema([field for field in PREDICTIONS.schema if field.name not in PREDICTIONS.partition_by])


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all parts of a run have in common."""

    run: str
    """Name of the run, which identifies its input, its model and its settings."""
    lake: str
    """Location of the lake, that every worker reaches."""
    version: int
    """Version of the table `clean`."""
    source: str
    """Reference to the scored version, such as lake:clean@3."""
    model: BulkModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A track that could not be scored."""

    bucket: int
    track_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """Result of one part. A part with failures has no file."""

    part: Part
    path: str
    """Path of the file, relative to the table."""
    size: int = 0
    """Size of the file, bytes."""
    onsets: int = 0
    """Number of tracks that enter reentry."""
    reused: bool = False
    """Whether an earlier, interrupted run wrote the file."""
    failures: tuple[Failure, ...] = ()


class _Columns:
    """Results of the rows of a part, (N,) each, and the tracks that could not be scored."""

    def __init__(self, rows: int) -> None:
        self.probability = np.empty(rows, np.float32)
        self.phase = np.empty(rows, np.int8)
        self.onset = np.empty(rows)
        self.onsets = 0
        self.failed: list[tuple[int, str]] = []
        """Track id and reason of each track without results."""

    def add(self, scorer: Scorer, batch: RequestBatch) -> None:
        """Score a batch. If it cannot be scored, score its tracks one by one to find out which one fails."""
        try:
            scores = scorer(batch)
        except Exception as error:  # the exceptions of onnxruntime have no common base class
            if len(batch) == 1:
                self.failed.append((batch.tracks[0].track_id, str(error) or type(error).__name__))
                return
            for single in batch.singles():
                self.add(scorer, single)
            return
        for track, probability, phase, onset in zip(batch.tracks, *scores, strict=True):
            self.probability[track.rows] = probability[: len(track)]
            self.phase[track.rows] = phase[: len(track)]
            self.onset[track.rows] = onset
            self.onsets += bool(onset != NO_ONSET_TIMESTAMP)


def score_part(job: Job, part: Part) -> PartResult:
    """Score the tracks of a part and write their file, unless it exists.

    Raises:
        LakeError: The lake is unreachable, or the file cannot be written.
        RepositoryError: The model is unreachable, or does not run on this machine.
    """
    lake = Lake(job.lake)
    files = lake.files(PREDICTIONS.name)
    path = f"run={job.run}/{part.name}.parquet"
    with lake.errors(PREDICTIONS.name):
        finished = _finished(files, path, part)
    if finished is not None:
        return replace(finished, reused=True)
    scorer = scorer_of(job.model)
    with lake.errors(CLEAN.name, job.version):
        rows = read_part(clean_rows(job.lake, job.version), part, [TRACK_ID.name, STEP, *MEASUREMENT_COLUMNS])
    columns = _Columns(len(rows))
    for batch in batches(_tracks(rows), BATCHING):
        columns.add(scorer, batch)
    if columns.failed:
        failures = tuple(Failure(bucket=part.bucket, track_id=track, reason=why) for track, why in columns.failed)
        return PartResult(part=part, path=path, failures=failures)
    table = _table(job, part, rows, columns)
    with lake.errors(PREDICTIONS.name):
        pq.write_table(table, path, filesystem=files, compression="zstd")
        finished = _finished(files, path, part)
    if finished is None:
        raise LakeError(
            "the file of a part is not there after it was written", where=f"{lake.uri(PREDICTIONS.name)}/{path}"
        )
    return finished


def _finished(files: FileSystem, path: str, part: Part) -> PartResult | None:
    """Return the result of a part from its file; None if there is no such file."""
    (info,) = files.get_file_info([path])
    if info.type != FileType.File:
        return None
    metadata = pq.read_metadata(path, filesystem=files)
    if metadata.num_rows != part.rows:
        return None
    return PartResult(part=part, path=path, size=info.size, onsets=int(metadata.metadata[_ONSETS]))


def _measurements(rows: pa.Table) -> npt.NDArray[np.float64]:
    """Return the measurements of rows, (N, M)."""
    measurements = np.empty((len(rows), len(MEASUREMENT_COLUMNS)))
    for column, name in enumerate(MEASUREMENT_COLUMNS):
        measurements[:, column] = rows.column(name).to_numpy()
    return measurements


def _tracks(rows: pa.Table) -> Iterator[Track]:
    """Yield the tracks; `Track.rows` are the numbers of their rows in the part."""
    ids, measurements = rows.column(TRACK_ID.name).to_numpy(), _measurements(rows)
    numbers = np.arange(len(ids))
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield Track(
            track_id=int(ids[start]),
            measurements=measurements[start:stop],
            reentry_phase=None,
            rows=numbers[start:stop],
            steps=numbers[: stop - start],
        )


def _table(job: Job, part: Part, rows: pa.Table, columns: _Columns) -> pa.Table:
    """Return the rows of a file, ordered by track and step."""
    values = {
        "source": pa.repeat(job.source, len(rows)),
        "model_version": pa.repeat(pa.scalar(job.model.version, pa.int64()), len(rows)),
        "bucket": pa.repeat(pa.scalar(part.bucket, pa.int32()), len(rows)),
        **{name: rows.column(name) for name in (TRACK_ID.name, STEP, TIMESTAMP.name)},
        "reentry_probability": columns.probability,
        "predicted_phase": columns.phase,
        "predicted_onset": pa.array(columns.onset, mask=columns.onset == NO_ONSET_TIMESTAMP),
    }
    schema = _FILE_SCHEMA.with_metadata({_ONSETS: str(columns.onsets)})
    return pa.table([values[name] for name in schema.names], schema=schema)
