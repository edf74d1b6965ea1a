"""Tracks of the table `clean` as a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds

from pipeline.lake.lake import Lake
from pipeline.lake.reference import TableReference
from pipeline.lake.tables import BUCKETS, CLEAN
from reentry.errors import InputError
from reentry.schema import REENTRY_PHASE, TRACK_COLUMNS, TRACK_ID
from reentry.tracks import write_tracks


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Result of an export."""

    reference: TableReference
    """The table with its version."""
    tracks: int
    rows: int


def export_tracks(lake: Lake, reference: TableReference, out: Path) -> Exported:
    """Write the tracks of a version of `clean`, with labels if every row has one. Sensors have their pseudonyms.

    Raises:
        InputError: The reference names another table, the table has no rows, or the file cannot be written.
        LakeError: The version does not exist.
    """
    if reference.table != CLEAN.name:
        raise InputError("only tracks of the table clean are exported", expected="lake:clean", got=str(reference))
    opened = lake.open(CLEAN.name, reference.version)
    with lake.errors(CLEAN.name, reference.version):
        dataset = opened.to_pyarrow_dataset()
        unlabelled = dataset.count_rows(filter=ds.field(REENTRY_PHASE.name).is_null())
    columns = [column.name for column in TRACK_COLUMNS] + ([] if unlabelled else [REENTRY_PHASE.name])
    counts = {"tracks": 0, "rows": 0}

    def buckets() -> Iterator[pd.DataFrame]:
        for bucket in range(BUCKETS):
            table = dataset.to_table(columns=[*columns, "step"], filter=ds.field("bucket") == bucket)
            rows = table.sort_by([(TRACK_ID.name, "ascending"), ("step", "ascending")]).select(columns).to_pandas()
            if len(rows):
                counts["tracks"] += rows[TRACK_ID.name].nunique()
                counts["rows"] += len(rows)
                yield rows

    with lake.errors(CLEAN.name, reference.version):
        write_tracks(out, buckets())
    return Exported(reference=replace(reference, version=opened.version()), **counts)
