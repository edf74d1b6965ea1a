r"""Declarations of the lake's tables.

    landing files -> raw -> clean -> features -> a trained model -> verdicts
                 \-> quarantine      \-> predictions

Rows of tracks are grouped by `bucket_of` their track, so that a process can take whole tracks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reentry.schema import FEATURES, REENTRY_PHASE, SENSOR_ID, TIMESTAMP, TRACK_COLUMNS, TRACK_ID

BUCKETS: Final = 16
"""Number of groups of whole tracks."""

OPERATOR_ID: Final = "operator_id"
"""Optional column of landing files: who operates the sensor."""
KEY_ID: Final = "key_id"
"""Column that names the key of the row's pseudonyms."""
STEP: Final = "step"
"""Column that numbers the rows of a complete track from 0."""
EXTRA: Final = "_extra"
"""Column that keeps the columns of a file that the contract does not know, as a JSON object."""
SEVERITY: Final = "severity"
"""Entry of `EXTRA` with the severity of a simulated track, if the landing file records it."""

_SHIFT: Final = np.uint64(64 - (BUCKETS - 1).bit_length())
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, whose multiples spread consecutive ids evenly (Knuth, TAOCP 3, 6.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the lake."""

    name: str
    meaning: str
    schema: pa.Schema
    partition_by: tuple[str, ...]


def bucket_of(track_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the group, 0 to `BUCKETS` - 1, of each track id; both have the shape (N,)."""
    return ((track_ids.astype(np.int64).view(np.uint64) * _GOLDEN) >> _SHIFT).astype(np.int32)


def feature_column(name: str) -> str:
    """Return the column of the table `features` for one of `schema.FEATURES`."""
    return f"feature_{name}"


def _fields(*fields: tuple[str, pa.DataType, bool]) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields]


_KINDS: Final[dict[str, Any]] = {"float64": pa.float64(), "int64": pa.int64(), "int8": pa.int8()}
_EXACT: Final = {TIMESTAMP.name, TRACK_ID.name, SENSOR_ID.name}
"""Columns that every row has; a missing measurement can be repaired."""
_ORIGIN: Final = _fields(
    ("hour", pa.string(), False),
    ("object", pa.string(), False),
    ("etag", pa.string(), False),
    ("content", pa.string(), False),
)
"""Hour of the file, such as 2026-12-01T08; its path below the landing folder; fingerprints of the store's tag and of
the content, see `pipeline.ingest.landing`."""


def _track_columns(*, complete: bool) -> list[pa.Field]:
    """Return the columns of rows, or of complete tracks, whose rows lie in any order and have a `step` from 0."""
    columns = [pa.field(c.name, _KINDS[c.dtype], nullable=not complete and c.name not in _EXACT) for c in TRACK_COLUMNS]
    label = pa.field(REENTRY_PHASE.name, _KINDS[REENTRY_PHASE.dtype], nullable=True)
    step = [pa.field(STEP, pa.int32(), nullable=False)] if complete else []
    return [pa.field("bucket", pa.int32(), nullable=False), *step, *columns, label]


_PSEUDONYMS: Final = _fields((OPERATOR_ID, pa.int64(), True), (KEY_ID, pa.string(), False))

RAW: Final = Table(
    name="raw",
    meaning="Rows of landing files that satisfy the contract, with pseudonyms for sensors and operators.",
    schema=pa.schema(
        [
            *_ORIGIN,
            pa.field("row", pa.int64(), nullable=False),
            *_track_columns(complete=False),
            *_PSEUDONYMS,
            pa.field(EXTRA, pa.string()),
        ]
    ),
    partition_by=("hour",),
)
QUARANTINE: Final = Table(
    name="quarantine",
    meaning="Files, rows and tracks that break a rule, without the values that identify a sensor or an operator.",
    schema=pa.schema(
        [
            *_ORIGIN,
            *_fields(
                ("row", pa.int64(), True),
                ("track_id", pa.int64(), True),
                ("column", pa.string(), True),
                ("rule", pa.string(), False),
                ("preview", pa.string(), True),
                ("status", pa.string(), False),
            ),
        ]
    ),
    partition_by=("hour",),
)
OPEN: Final = "open"
"""Status of an entry of `quarantine` that nobody has dealt with."""
SUPERSEDED: Final = "superseded"
"""Status of an entry of `quarantine` whose file was uploaded again with another content."""
RESOLVED: Final = "resolved"
"""Status of an entry of `quarantine` for a track that could be repaired later."""
CLEAN: Final = Table(
    name="clean",
    meaning="Repaired whole tracks, ordered by track and time.",
    schema=pa.schema([*_track_columns(complete=True), *_PSEUDONYMS]),
    partition_by=("bucket",),
)
FEATURES_TABLE: Final = Table(
    name="features",
    meaning="Repaired labelled tracks with their features; a group of features that was not computed is missing.",
    schema=pa.schema(
        [
            pa.field("schema_version", pa.int32(), nullable=False),
            *_track_columns(complete=True),
            *(pa.field(feature_column(name), pa.float32()) for name in FEATURES),
            *_PSEUDONYMS,
        ]
    ),
    partition_by=("bucket",),
)
PREDICTIONS: Final = Table(
    name="predictions",
    meaning="Results of bulk scoring, one row for each step.",
    schema=pa.schema(
        [
            *_fields(
                ("run", pa.string(), False),
                ("source", pa.string(), False),
                ("model_version", pa.int64(), False),
                ("bucket", pa.int32(), False),
                ("track_id", pa.int64(), False),
                ("step", pa.int32(), False),
                ("timestamp", pa.float64(), False),
                ("reentry_probability", pa.float32(), False),
                ("predicted_phase", pa.int8(), False),
                ("predicted_onset", pa.float64(), True),
            )
        ]
    ),
    partition_by=("run",),
)
VERDICTS: Final = Table(
    name="verdicts",
    meaning="Verdicts of the gate on new models, one row for each comparison with the version in production.",
    schema=pa.schema(
        [
            *_fields(
                ("time", pa.timestamp("us", tz="UTC"), False),
                ("challenger", pa.string(), False),
                ("champion", pa.string(), False),
                ("reason", pa.string(), True),
                ("command", pa.string(), False),
                ("table", pa.string(), False),
                ("tracks", pa.int64(), False),
                ("verdict", pa.string(), False),
                ("difference", pa.float64(), False),
                ("low", pa.float64(), False),
                ("high", pa.float64(), False),
                ("margin", pa.float64(), False),
                ("allowed", pa.bool_(), False),
                ("window_tracks", pa.int64(), True),
            )
        ]
    ),
    partition_by=(),
)
"""The difference of the onset RMSE on the table, challenger minus champion, its interval and its margin are in s.
`challenger` and `champion` are the SHA-256 of checkpoints, `command` is `retrain` or `gate`, `allowed` is whether the
challenger may replace the champion, and `window_tracks` is null if the window was not compared."""

TABLES: Final = {table.name: table for table in (RAW, QUARANTINE, CLEAN, FEATURES_TABLE, PREDICTIONS, VERDICTS)}
