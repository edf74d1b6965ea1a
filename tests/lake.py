"""Clean tables made from simulated flights."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from pipeline.lake.lake import Lake
from pipeline.lake.tables import CLEAN, bucket_of
from reentry.schema import REENTRY_PHASE


def clean_rows(flights: pd.DataFrame) -> pa.Table:
    """Rows of the table clean for flights that need no repair; without a column of labels, the labels are missing."""
    buckets = bucket_of(flights["track_id"].to_numpy())
    table = flights.assign(bucket=buckets, operator_id=None, key_id="k1")
    table["step"] = table.groupby("track_id").cumcount()
    if REENTRY_PHASE.name not in table:
        table[REENTRY_PHASE.name] = None
    return pa.Table.from_pandas(table, schema=CLEAN.schema, preserve_index=False).sort_by(
        [(name, "ascending") for name in ("bucket", "track_id", "timestamp")]
    )


def write_clean(lake: Lake, flights: pd.DataFrame) -> int:
    """Replace the table clean by flights, and return its new version."""
    lake.create(CLEAN.name)
    rows, key = clean_rows(flights), f"version {lake.open(CLEAN.name).version() + 1}"

    def reader(*_: object) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(rows.schema, iter(rows.to_batches()))

    assert lake.commit_once(CLEAN.name, [key], reader, replace=lambda *_: "bucket >= 0") == [key]
    return lake.open(CLEAN.name).version()
