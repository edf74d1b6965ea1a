"""Building of the table `clean`, of which only the tracks with changed rows are written again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipeline.clean.changes import RAW_VERSION, RULES, RULES_ENTRY, built_from, changed_tracks
from pipeline.clean.tracks import BuildCounts, build_tracks, read_rows, set_aside_table
from pipeline.lake.lake import Lake
from pipeline.lake.spool import read_spools, write_spool
from pipeline.lake.tables import BUCKETS, CLEAN, OPEN, QUARANTINE, RAW, RESOLVED, bucket_of
from reentry.runtime.progress import progress
from reentry.schema import TRACK_ID

MOST_TRACKS: Final = 2_000
"""Number of changed tracks above which their whole buckets are replaced. It bounds the memory and the predicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReport:
    """Result of a build."""

    raw_version: int
    version: int
    """Version of `clean` that holds the tracks of this version of `raw`."""
    up_to_date: bool
    """Whether nothing had to be written."""
    tracks: int
    rows: int
    repairs: dict[str, int]
    set_aside: int
    """Number of tracks beyond repair among those that were built."""

    def summary(self) -> str:
        """Return the result as text."""
        if self.up_to_date:
            return f"lake:clean@{self.version} is up to date with lake:raw@{self.raw_version}"
        lines = [
            f"lake:clean@{self.version} from lake:raw@{self.raw_version}: "
            f"tracks written {self.tracks:,}, rows {self.rows:,}"
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
        LakeError: The version does not exist, the lake is unavailable, or rows were erased during the build.
    """
    fences = lake.fences(CLEAN.name, QUARANTINE.name)
    raw = lake.open(RAW.name, raw_version)
    clean = lake.create(CLEAN.name)
    counts = BuildCounts()
    written = False
    if _Changes.of(lake, raw, clean).any:
        with tempfile.TemporaryDirectory(prefix="reentry-clean-") as folder:
            spool = Path(folder) / "tracks.parquet"
            written = bool(_commit(lake, raw, clean, spool, counts, fences, newest=raw_version is None))
    _close_entries(lake)
    return CleanReport(
        raw_version=raw.version(),
        version=lake.open(CLEAN.name).version(),
        up_to_date=not written,
        tracks=counts.tracks,
        rows=counts.rows,
        repairs={kind.value: count for kind, count in counts.repairs.items()},
        set_aside=len(counts.set_aside),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changes:
    """What has to be written again."""

    track_ids: npt.NDArray[np.int64] | None
    """Sorted ids of the changed tracks; None for all tracks of the buckets."""
    buckets: tuple[int, ...]
    present: npt.NDArray[np.int64]
    """Those of `track_ids` that `clean` has."""

    @classmethod
    def of(cls, lake: Lake, raw: DeltaTable, clean: DeltaTable) -> _Changes:
        """Compare `raw` with the version that `clean` was built from."""
        before = built_from(clean)
        nothing = np.empty(0, np.int64)
        ids = None
        if before is not None:
            with lake.errors(RAW.name):
                ids = nothing if before == raw.version() else changed_tracks(lake.open(RAW.name, before), raw)
        if ids is None:
            return cls(track_ids=None, buckets=tuple(range(BUCKETS)), present=nothing)
        buckets = tuple(np.unique(bucket_of(ids)).tolist())
        if len(ids) > MOST_TRACKS:
            return cls(track_ids=None, buckets=buckets, present=nothing)
        with lake.errors(CLEAN.name):
            known = ds.field("bucket").isin(list(buckets)) & ds.field(TRACK_ID.name).isin(pa.array(ids))
            found = clean.to_pyarrow_dataset().to_table(columns=[TRACK_ID.name], filter=known)
        return cls(track_ids=ids, buckets=buckets, present=pc.unique(found.column(0)).to_numpy())

    @property
    def any(self) -> bool:
        """Whether anything has to be written."""
        return bool(self.buckets)

    def predicate(self) -> str | None:
        """Return the SQL condition of the rows that are replaced; None if no row is replaced."""
        # No bucket has the number -1: another process has just written all changes.
        within = f"bucket IN ({', '.join(map(str, self.buckets or [-1]))})"
        if self.track_ids is None or not self.any:
            return within
        if not len(self.present):
            return None
        # New tracks among the changed ones are listed too, because every written row must satisfy the condition.
        return f"{within} AND {TRACK_ID.name} IN ({', '.join(map(str, self.track_ids.tolist()))})"


def _commit(
    lake: Lake,
    raw: DeltaTable,
    clean: DeltaTable,
    spool: Path,
    counts: BuildCounts,
    fences: Mapping[str, int],
    *,
    newest: bool,
) -> list[str]:
    """Write the changed tracks, unless another process does it first.

    Args:
        lake: The lake.
        raw: The rows.
        clean: The table before.
        spool: File for the tracks.
        counts: Counts of what is written.
        fences: Numbers of fences before `raw` was read.
        newest: Whether nothing is written if another process has built a newer version of `raw` meanwhile.
    """
    found: list[_Changes] = []

    def chosen(new: Sequence[str], table: DeltaTable) -> Sequence[str]:
        before = built_from(table)
        return [] if newest and before is not None and before > raw.version() else new

    def rows_of(_new: Sequence[str], table: DeltaTable) -> pa.RecordBatchReader:
        found[:] = [_Changes.of(lake, raw, table)]
        write_spool(spool, CLEAN.schema, _tracks(raw, found[0], counts))
        # Before the tracks, so that a killed process leaves no track without its entry.
        entries = counts.set_aside
        lake.commit_once(
            QUARANTINE.name,
            sorted(entries),
            lambda keys, _table: set_aside_table([entries[key] for key in keys]),
            fences=fences,
        )
        return read_spools([spool], CLEAN.schema)

    return lake.commit_once(
        CLEAN.name,
        # The version before the commit is a part of the key, because an earlier version of `raw` may be built again.
        [f"clean:{raw.version()} after {clean.version()}"],
        rows_of,
        choose=chosen,
        replace=lambda _new, _table: found[0].predicate(),
        metadata={RAW_VERSION: str(raw.version()), RULES_ENTRY: str(RULES)},
        fences=fences,
    )


def _tracks(raw: DeltaTable, changes: _Changes, counts: BuildCounts) -> Iterator[pa.RecordBatch]:
    """Yield the changed tracks; a second call starts the counts again."""
    counts.tracks = counts.rows = 0
    counts.repairs.clear()
    counts.set_aside.clear()
    # Few tracks are read at once, because each reading opens all files; all tracks bucket by bucket.
    several = [changes.buckets] if changes.track_ids is not None else [(bucket,) for bucket in changes.buckets]
    with progress("cleaning", len(changes.buckets), "buckets") as advance:
        for buckets in several:
            yield from build_tracks(read_rows(raw, buckets, changes.track_ids), counts)
            advance(len(buckets))


def _close_entries(lake: Lake) -> None:
    """Close the entries of `quarantine` of tracks that are in `clean` now.

    It looks at all entries and not only at those of this build, because an earlier one may have been killed before.
    """
    if not lake.exists(QUARANTINE.name):
        return
    is_track = ds.field("row").is_null() & ds.field("track_id").is_valid() & (ds.field("status") == OPEN)
    with lake.errors(QUARANTINE.name):
        table = lake.open(QUARANTINE.name)
        waiting = table.to_pyarrow_dataset().to_table(columns=["track_id"], filter=is_track).column(0).unique()
    if not len(waiting):
        return
    with lake.errors(CLEAN.name):
        dataset = lake.open(CLEAN.name).to_pyarrow_dataset()
        found = dataset.to_table(columns=["track_id"], filter=ds.field("track_id").isin(waiting)).column("track_id")
    ids = pc.unique(found).to_pylist()
    if ids:
        predicate = f"row IS NULL AND status = '{OPEN}' AND track_id IN ({', '.join(map(str, sorted(ids)))})"
        lake.update(QUARANTINE.name, {"status": RESOLVED}, predicate)
