"""Tracks from the rows of `raw`.

Shapes: N rows, T steps, M measurement columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipeline.lake.tables import CLEAN, KEY_ID, OPEN, OPERATOR_ID, QUARANTINE, bucket_of
from reentry.errors import LakeError
from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, SENSOR_ID, TRACK_ID
from reentry.tracks import Track
from reentry.tracks.cells import NO_LABEL, RECORD
from reentry.tracks.repair import RepairConfig, Unrepairable, repair_track
from reentry.tracks.report import Repair

_ORDER: Final = ["track_id", "hour", "object", "row"]
_READ: Final = [
    *("hour", "object", "etag", "content", "row", TRACK_ID.name, *MEASUREMENT_COLUMNS),
    *(REENTRY_PHASE.name, OPERATOR_ID, KEY_ID),
]
_SENSOR: Final = MEASUREMENT_COLUMNS.index(SENSOR_ID.name)
_SEVERAL_KEYS: Final = "rows with pseudonyms of several keys; fix: reentry privacy rekey"


@dataclass(slots=True, kw_only=True)
class BuildCounts:
    """What a build has written."""

    tracks: int = 0
    rows: int = 0
    repairs: Counter[Repair] = field(default_factory=Counter)
    set_aside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries for `quarantine` of tracks beyond repair, by a key that depends on their rows."""


def read_rows(raw: DeltaTable, buckets: Sequence[int], track_ids: npt.NDArray[np.int64] | None) -> pd.DataFrame:
    """Return rows of `raw` by track, and within a track in the order of hours, objects and rows.

    Args:
        raw: The table.
        buckets: Numbers of the buckets.
        track_ids: Ids of the tracks; None for all tracks of the buckets.
    """
    wanted = ds.field("bucket").isin(list(buckets))
    if track_ids is not None:
        wanted &= ds.field(TRACK_ID.name).isin(pa.array(track_ids))
    table = raw.to_pyarrow_dataset().to_table(columns=_READ, filter=wanted)
    rows: pd.DataFrame = table.to_pandas(integer_object_nulls=True)
    return rows.sort_values(_ORDER, kind="stable", ignore_index=True)


def build_tracks(rows: pd.DataFrame, counts: BuildCounts) -> Iterator[pa.RecordBatch]:
    """Yield the repaired tracks of rows by track id, with the columns of `CLEAN`, and add to the counts.

    Raises:
        LakeError: Two sensors cannot be told apart.
    """
    if rows.empty:
        return
    sensors = rows[SENSOR_ID.name].to_numpy(np.int64)
    records = np.empty(len(rows), dtype=RECORD)
    records["row"] = np.arange(len(rows))
    records["track_id"] = rows[TRACK_ID.name].to_numpy(np.int64)
    for position, name in enumerate(MEASUREMENT_COLUMNS):
        records["measurement"][:, position] = rows[name].to_numpy(np.float64)
    label = rows[REENTRY_PHASE.name]
    records["reentry_phase"] = label.where(label.notna(), NO_LABEL).astype(np.int8)
    exact = _exact(sensors)
    starts = np.append(0, np.flatnonzero(np.diff(records["track_id"])) + 1)
    for own in np.split(records, starts[1:]):
        of_track = rows.iloc[own["row"][0] : own["row"][-1] + 1]
        try:
            if len(set(of_track[KEY_ID])) > 1:
                _set_aside(counts, of_track, _SEVERAL_KEYS)
                continue
            repaired = repair_track(own, RepairConfig())
        except Unrepairable as error:
            _set_aside(counts, of_track, error.faults[0].problem)
            continue
        counts.tracks += 1
        counts.rows += len(repaired.track)
        counts.repairs += repaired.repairs
        yield _batch(repaired.track, rows, exact)


def _exact(sensors: npt.NDArray[np.int64]) -> dict[float, int]:
    """Return each sensor's pseudonym by its value as float64, which rounds it."""
    distinct = np.unique(sensors)
    exact = dict(zip(distinct.astype(np.float64).tolist(), distinct.tolist(), strict=True))
    if len(exact) < len(distinct):
        raise LakeError(
            "two sensors have pseudonyms that are equal as float64", fix="rotate the key: reentry privacy rekey"
        )
    return exact


def _batch(track: Track, rows: pd.DataFrame, exact: dict[float, int]) -> pa.RecordBatch:
    steps = len(track)
    cells = dict(zip(MEASUREMENT_COLUMNS, track.measurements.T, strict=True))
    row_of = np.full(steps, -1)
    row_of[track.steps[::-1]] = track.rows[::-1]  # of several equal rows, the first one
    # A step that was filled in has the operator of the row before it.
    row_of = row_of[np.maximum.accumulate(np.where(row_of < 0, 0, np.arange(steps)))]
    operator = rows[OPERATOR_ID].to_numpy(dtype=object)[row_of]
    label = track.reentry_phase
    columns = {
        "bucket": pa.array(bucket_of(np.full(steps, track.track_id)), pa.int32()),
        "step": pa.array(np.arange(steps), pa.int32()),
        **{name: pa.array(values) for name, values in cells.items()},
        TRACK_ID.name: pa.array(np.full(steps, track.track_id), pa.int64()),
        SENSOR_ID.name: pa.array([exact[each] for each in cells[SENSOR_ID.name].tolist()], pa.int64()),
        REENTRY_PHASE.name: pa.nulls(steps, pa.int8()) if label is None else pa.array(label, pa.int8()),
        OPERATOR_ID: pa.array([None if pd.isna(each) else int(each) for each in operator], pa.int64()),
        KEY_ID: pa.array([rows[KEY_ID].iloc[track.rows[0]]] * steps, pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in CLEAN.schema.names], schema=CLEAN.schema)


def _set_aside(counts: BuildCounts, rows: pd.DataFrame, rule: str) -> None:
    """Add an entry for `quarantine`; the same rows give the same key in each build."""
    first = rows.iloc[0]
    identity = f"{first[TRACK_ID.name]} {rule} {sorted(set(rows['content']))} {len(rows)}"
    counts.set_aside["track:" + hashlib.sha256(identity.encode()).hexdigest()] = {
        **{name: first[name] for name in ("hour", "object", "etag", "content")},
        "row": None,
        "track_id": int(first[TRACK_ID.name]),
        "column": None,
        "rule": rule,
        "preview": f"{len(rows)} rows of {rows['object'].nunique()} files",
        "status": OPEN,
    }


def set_aside_table(entries: list[dict[str, Any]]) -> pa.Table:
    """Return entries as rows of `quarantine`."""
    return pa.Table.from_pylist(entries, schema=QUARANTINE.schema)
