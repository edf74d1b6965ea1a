"""Whole tracks of a version of a table, bucket by bucket, in an order that does not depend on its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from pipeline.lake.tables import STEP
from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, TRACK_ID
from reentry.tracks import Track

_ORDER: Final = [(TRACK_ID.name, "ascending"), (STEP, "ascending")]
_BATCH_ROWS: Final = 65_536
_NO_ROWS: Final = np.empty(0, dtype=np.int64)


def rows_of_bucket(
    table: DeltaTable,
    bucket: int,
    columns: Sequence[str] | None = None,
    track_ids: npt.NDArray[np.int64] | None = None,
) -> pa.Table:
    """Read the rows of one bucket, ordered by track and step.

    Args:
        table: Table with the partition column `bucket`, at the version to read.
        bucket: Number of the bucket.
        columns: Names of the columns to read, in this order; None reads all.
        track_ids: Ids of the tracks to read; None reads all.
    """
    chosen = pc.field("bucket") == bucket
    if track_ids is not None:
        chosen &= pc.field(TRACK_ID.name).isin(pa.array(track_ids))
    dataset = table.to_pyarrow_dataset()
    names = list(columns) if columns is not None else dataset.schema.names
    # A batch is reduced to the chosen rows before the next one is read.
    batches = dataset.to_batches(columns=names, filter=chosen, batch_size=_BATCH_ROWS)
    schema = pa.schema([dataset.schema.field(name) for name in names])
    return pa.Table.from_batches(batches, schema=schema).sort_by(_ORDER).combine_chunks()


def whole_tracks(rows: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of each track, from rows that are ordered by track."""
    ids = rows[TRACK_ID.name].to_numpy()
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1, [len(ids)]])
    for start, end in pairwise(bounds):
        if end > start:
            yield rows.slice(start, end - start)


def track_of(rows: pa.Table) -> Track:
    """Return the rows of one track as arrays. A sensor id above 2**53 is rounded, so it must not be written back."""
    cells = [rows[name].to_numpy().astype(np.float64) for name in MEASUREMENT_COLUMNS]
    labels = rows[REENTRY_PHASE.name]
    return Track(
        track_id=rows[TRACK_ID.name][0].as_py(),
        measurements=np.stack(cells, axis=1),
        reentry_phase=None if labels.null_count else labels.to_numpy().astype(np.int8),
        rows=_NO_ROWS,
        steps=_NO_ROWS,
    )
