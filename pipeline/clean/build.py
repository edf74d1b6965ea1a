"""Building of the table `clean`, of which only the buckets with changed rows are written again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipeline.clean.state import ENTRY, bucket_states, built_states
from pipeline.clean.tracks import BucketReport, bucket_tracks, set_aside_table
from pipeline.ingest.read import OPEN
from pipeline.lake.lake import Lake
from pipeline.lake.spool import read_spools, write_spool
from pipeline.lake.tables import CLEAN, QUARANTINE, RAW
from reentry.runtime.progress import progress

RESOLVED: Final = "resolved"
"""Status of an entry of `quarantine` for a track that could be repaired later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReport:
    """Result of a build."""

    raw_version: int
    version: int
    """Version of `clean` that holds the tracks of this version of `raw`."""
    buckets: int
    """Number of buckets that were written again."""
    tracks: int
    rows: int
    repairs: dict[str, int]
    set_aside: int
    """Number of tracks beyond repair in these buckets."""

    def summary(self) -> str:
        """Return the result as text."""
        if not self.buckets:
            return f"lake:clean@{self.version} is up to date with lake:raw@{self.raw_version}"
        lines = [
            f"lake:clean@{self.version} from lake:raw@{self.raw_version}: buckets written {self.buckets}, "
            f"tracks {self.tracks:,}, rows {self.rows:,}"
        ]
        lines += [f"  repaired: {kind} {count:,}" for kind, count in self.repairs.items()]
        lines += [f"  in quarantine: tracks beyond repair {self.set_aside:,}"] if self.set_aside else []
        return "\n".join(lines)


def build_clean(lake: Lake, raw_version: int | None = None) -> CleanReport:
    """Write the tracks of a version of `raw` to `clean`, in one commit.

    Args:
        lake: The lake.
        raw_version: Version of `raw`; None takes the newest one.

    Raises:
        LakeError: The version does not exist, or the lake is unavailable.
    """
    raw = lake.open(RAW.name, raw_version)
    with lake.errors(RAW.name):
        states = bucket_states(raw)
    clean = lake.create(CLEAN.name)
    report = BucketReport()
    changed: list[int] = []

    def rows_of(_new: Sequence[str], table: DeltaTable) -> pa.RecordBatchReader:
        built = built_states(table)
        changed[:] = [int(bucket) for bucket, state in states.items() if built.get(bucket) != state]
        write_spool(spool, CLEAN.schema, _all_tracks(raw, changed, report))
        return read_spools([spool], CLEAN.schema)

    def replaced(_new: Sequence[str], table: DeltaTable) -> str:
        del table
        # No bucket has the number -1: another process has just written them all.
        return f"bucket IN ({', '.join(map(str, changed or [-1]))})"

    if built_states(clean) != states:
        # The commit before this one is a part of the key, because an earlier state of `raw` may come back.
        key = "clean:" + hashlib.sha256(f"{json.dumps(states)} after {clean.version()}".encode()).hexdigest()
        with tempfile.TemporaryDirectory(prefix="reentry-clean-") as folder:
            spool = Path(folder) / "tracks.parquet"
            lake.commit_once(
                CLEAN.name,
                [key],
                rows_of,
                replace=replaced,
                metadata={ENTRY: json.dumps(states), "raw_version": str(raw.version())},
            )
        _report_tracks(lake, report)
    return CleanReport(
        raw_version=raw.version(),
        version=lake.open(CLEAN.name).version(),
        buckets=len(changed),
        tracks=report.tracks,
        rows=report.rows,
        repairs={kind.value: count for kind, count in report.repairs.items()},
        set_aside=len(report.set_aside),
    )


def _all_tracks(raw: DeltaTable, buckets: Sequence[int], report: BucketReport) -> Iterator[pa.RecordBatch]:
    """Yield the tracks of buckets; a second call starts the report again."""
    report.tracks = report.rows = 0
    report.repairs.clear()
    report.set_aside.clear()
    with progress("cleaning", len(buckets), "buckets") as advance:
        for bucket in buckets:
            yield from bucket_tracks(raw, bucket, report)
            advance(1)


def _report_tracks(lake: Lake, report: BucketReport) -> None:
    """Add tracks beyond repair to `quarantine`, and close the entries of tracks that are in `clean` now."""
    entries = report.set_aside
    if entries:
        lake.commit_once(
            QUARANTINE.name, sorted(entries), lambda new, _table: set_aside_table([entries[key] for key in new])
        )
    if not lake.exists(QUARANTINE.name):
        return
    quarantine = lake.open(QUARANTINE.name)
    is_track = ds.field("row").is_null() & ds.field("track_id").is_valid() & (ds.field("status") == OPEN)
    waiting = (
        quarantine.to_pyarrow_dataset().to_table(columns=["track_id"], filter=is_track).column("track_id").unique()
    )
    if not len(waiting):
        return
    dataset = lake.open(CLEAN.name).to_pyarrow_dataset()
    found = dataset.to_table(columns=["track_id"], filter=ds.field("track_id").isin(waiting)).column("track_id")
    ids = pc.unique(found).to_pylist()
    if ids:
        predicate = f"row IS NULL AND status = '{OPEN}' AND track_id IN ({', '.join(map(str, sorted(ids)))})"
        with lake.errors(QUARANTINE.name):
            quarantine.update(new_values={"status": RESOLVED}, predicate=predicate)
