"""Parts of a version of the table `clean`: whole tracks of one bucket, of bounded size."""

from __future__ import annotations

import atexit
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.lake.lake import Lake
from pipeline.lake.tables import CLEAN, STEP
from reentry.schema import TRACK_ID

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """All tracks of one bucket whose ids lie in a range."""

    bucket: int
    first: int
    """Smallest track id."""
    last: int
    """Largest track id."""
    tracks: int
    rows: int

    @property
    def name(self) -> str:
        """Name of the part's file. It contains no track id, because the log of a table outlives its rows."""
        digest = hashlib.sha256(f"{self.first} {self.last}".encode()).hexdigest()
        return f"part-{self.bucket:02d}-{digest[:16]}"


@lru_cache(maxsize=1)
def clean_rows(lake: str, version: int) -> ds.Dataset:
    """Return a version of the table `clean`, which is opened once in each process.

    Raises:
        LakeError: The table or the version does not exist.
    """
    place = Lake(lake)
    table = place.open(CLEAN.name, version)
    with place.errors(CLEAN.name, version):
        return table.to_pyarrow_dataset()


# While a file system of S3 with the credentials of a pod exists, Arrow hangs when it shuts S3 down at the end of the
# process (apache/arrow issue 50188). Functions run in the reverse order of their registration, so this one comes first.
atexit.register(clean_rows.cache_clear)


def read_part(rows: ds.Dataset, part: Part, columns: Sequence[str]) -> pa.Table:
    """Read a part, ordered by track and step.

    Args:
        rows: Rows of the table, see `clean_rows`.
        part: The part.
        columns: Columns to read, `track_id` and `step` among them.
    """
    track_id = ds.field(TRACK_ID.name)
    chosen = (ds.field("bucket") == part.bucket) & (track_id >= part.first) & (track_id <= part.last)
    # The default reads far ahead, which takes more memory than the part itself.
    table = rows.to_table(list(columns), filter=chosen, use_threads=False, batch_readahead=1, fragment_readahead=1)
    tracks, steps = np.diff(table.column(TRACK_ID.name).to_numpy()), np.diff(table.column(STEP).to_numpy())
    if ((tracks > 0) | ((tracks == 0) & (steps == 1))).all():
        return table
    return table.sort_by([(TRACK_ID.name, "ascending"), (STEP, "ascending")])  # files may hold the rows in any order


def parts_of(lake: str, version: int, part_rows: int, bucket: int, window: int = 1) -> list[Part]:
    """Divide a bucket of the table `clean` into parts. Only the track ids are read.

    Args:
        lake: Location of the lake.
        version: Version of the table.
        part_rows: Number of rows at which a part ends, with the window that reaches it.
        bucket: Number of the bucket.
        window: Number of rows of the tracks that are never divided, see `cuts`.

    Raises:
        LakeError: The table cannot be read.
    """
    rows = clean_rows(lake, version)
    scanner = rows.scanner(columns=[TRACK_ID.name], filter=ds.field("bucket") == bucket, use_threads=False)
    runs: list[tuple[Ids, Ids]] = []
    with Lake(lake).errors(CLEAN.name, version):
        runs += [_runs(batch) for batch in scanner.to_batches()]
    if not runs:
        return []
    ids, of_run = np.unique(np.concatenate([ids for ids, _ in runs]), return_inverse=True)
    counts = np.bincount(of_run, weights=np.concatenate([counts for _, counts in runs])).astype(np.int64)
    starts = list(cuts(counts.tolist(), part_rows, window))
    return [
        Part(
            bucket=bucket,
            first=int(ids[start]),
            last=int(ids[stop - 1]),
            tracks=stop - start,
            rows=int(counts[start:stop].sum()),
        )
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)
    ]


def _runs(batch: pa.RecordBatch) -> tuple[Ids, Ids]:
    """Return the track id and the number of rows of each run of rows with one id, (R,) each."""
    ids = batch.column(TRACK_ID.name).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
    return ids[starts], np.diff(starts, append=len(ids))


def cuts(counts: Sequence[int], part_rows: int, window: int) -> Iterator[int]:
    """Yield the index of the first track of each part.

    Args:
        counts: Number of rows of each track, in order of the ids.
        part_rows: See `parts_of`.
        window: Number of rows at which a window ends, with the track that reaches it. A part is a sequence of whole
            windows.
    """
    in_part = in_window = 0
    yield 0
    for index, count in enumerate(counts[:-1], 1):
        in_window += count
        in_part += count
        if in_window >= window:
            in_window = 0
            if in_part >= part_rows:
                in_part = 0
                yield index
