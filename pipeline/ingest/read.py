"""Reading of one landing file into rows of `raw` and of `quarantine`.

Ids of sensors and operators become pseudonyms here, before anything is written.

Shapes: N rows of the file, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline.ingest.faults import masked_names, quarantine_rows, with_previews
from pipeline.ingest.landing import Landed
from pipeline.ingest.other_columns import Texts, extra_column, read_other_columns
from pipeline.lake.tables import EXTRA, KEY_ID, OPERATOR_ID, RAW, SEVERITY, bucket_of
from pipeline.privacy.keys import PseudonymKeys
from pipeline.privacy.pseudonyms import OPERATOR, SENSOR, pseudonyms
from reentry.errors import TrackFileError
from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
from reentry.tracks.cells import NO_LABEL, RECORD, Records, parse
from reentry.tracks.sources import Source, open_source
from reentry.tracks.write import origin_of

OPTIONAL: Final = (REENTRY_PHASE.name, OPERATOR_ID)
"""Columns that a file may lack; they are then missing in every row."""
DUPLICATE: Final = "the same content as another file"

LARGEST_SENSOR: Final = 2**53
"""Largest magnitude of a sensor id that a measurement, which is float64, holds exactly."""
LARGEST_FILE: Final = 2_000_000
"""Largest number of rows of a file, which is held in memory: a megabyte of Parquet can have a thousand million rows."""
_INEXACT: Final = "too large: a sensor id must lie within 2**53"
_POSITION: Final = {name: MEASUREMENT_COLUMNS.index(name) for name in MEASUREMENT_COLUMNS}
_FAULT_COLUMNS: Final = ["row", "column", "problem", "got"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """What one landing file adds to the lake."""

    landed: Landed
    content: str
    """Fingerprint of the file."""
    rows: int = 0
    """N; 0 if the file as a whole is unusable."""
    bad_rows: int = 0
    raw: pa.Table
    quarantine: pa.Table
    warnings: tuple[str, ...] = ()

    @property
    def unusable(self) -> bool:
        """Whether the file as a whole is in quarantine."""
        return self.rows == 0

    @property
    def content_key(self) -> str:
        """Name of the content, wherever it lies."""
        return f"content:{self.content}"


def read_landed(path: Path, landed: Landed, content: str, keys: PseudonymKeys) -> FileContent:
    """Read a copy of a landing file. A file that cannot be used as a whole becomes one entry of `quarantine`.

    Args:
        path: The copy, with the suffix of the original.
        landed: Where it came from.
        content: Fingerprint of the copy.
        keys: Keys of the pseudonyms.
    """
    try:
        return _read(path, landed, content, keys)
    except TrackFileError as error:
        # The values of the error are left out, because they may be cells of the file.
        return whole_file_in_quarantine(landed, content, masked_names(error.problem))


def whole_file_in_quarantine(landed: Landed, content: str, rule: str) -> FileContent:
    """Return the content of a file that is not used."""
    entry = pd.DataFrame({"row": [None], "column": [None], "problem": [rule], "preview": [None], "track_id": [None]})
    return FileContent(
        landed=landed, content=content, raw=RAW.schema.empty_table(), quarantine=quarantine_rows(entry, landed, content)
    )


def _read(path: Path, landed: Landed, content: str, keys: PseudonymKeys) -> FileContent:
    source = open_source(path)
    labelled = REENTRY_PHASE.name in source.columns
    records, faults, rows = _rows(source, labelled=labelled)
    if rows == 0:
        raise TrackFileError("no rows", where=str(path))
    unreadable = _column_without_numbers(faults, rows)
    if unreadable:
        raise TrackFileError(f"column {unreadable} is not numeric", where=str(path))

    bad = np.unique(faults["row"].to_numpy(np.int64))
    other = [name for name in source.columns if name and name not in {*(c.name for c in TRACK_COLUMNS), *OPTIONAL}]
    named = [*other, *([OPERATOR_ID] if OPERATOR_ID in source.columns else [])]
    texts = read_other_columns(path, named, source.columns, rows)
    good = records[~np.isin(records["row"], bad)]
    warnings = [f"column {name} is missing, its values are unknown" for name in OPTIONAL if name not in source.columns]
    if other:
        # The names are the file's own, so only their number is reported.
        warnings.append(f"unknown columns: {len(other)}, kept in {EXTRA}")
    return FileContent(
        landed=landed,
        content=content,
        rows=rows,
        bad_rows=len(bad),
        raw=_raw(good, texts, _simulated(path), landed, content, keys),
        quarantine=quarantine_rows(with_previews(faults, records), landed, content),
        warnings=tuple(warnings),
    )


def _rows(source: Source, *, labelled: bool) -> tuple[Records, pd.DataFrame, int]:
    """Return the rows with a readable track id, the faults of all rows, and N."""
    parts, faults, rows = [], [], 0
    for chunk in source.chunks():
        records, _, table = parse(chunk, labelled=labelled)
        sensor = records["measurement"][:, _POSITION[SENSOR_ID.name]]
        inexact = records["row"][np.abs(sensor) > LARGEST_SENSOR]
        large = {"row": inexact, "column": SENSOR_ID.name, "problem": _INEXACT, "got": ""}
        # A label is optional in each row.
        table = table[~((table["column"] == REENTRY_PHASE.name) & (table["problem"] == "missing"))]
        faults += [each for each in (table, pd.DataFrame(large)) if len(each)]
        parts.append(records)
        rows += chunk.rows
        if rows > LARGEST_FILE:
            raise TrackFileError(f"more than {LARGEST_FILE:,} rows: split the file")
    found = pd.concat(faults, ignore_index=True) if faults else pd.DataFrame(columns=_FAULT_COLUMNS)
    return np.concatenate([np.empty(0, RECORD), *parts]), found, rows


def _column_without_numbers(faults: pd.DataFrame, rows: int) -> str | None:
    """Return the name of a column in which no cell is a number, if there is one."""
    counts = faults.loc[faults["problem"].isin(["not a number", "not a whole number"]), "column"].value_counts()
    whole = counts[counts == rows]
    return str(whole.index[0]) if len(whole) and rows > 1 else None


def _simulated(path: Path) -> dict[str, int]:
    """Return the severity that a simulation has recorded in the file; empty for other files."""
    severity = (origin_of(path) or {}).get(SEVERITY)
    return {SEVERITY: severity} if isinstance(severity, int) else {}


def _raw(
    good: Records,
    texts: Mapping[str, Texts],
    simulated: Mapping[str, int],
    landed: Landed,
    content: str,
    keys: PseudonymKeys,
) -> pa.Table:
    bucket = bucket_of(good["track_id"])
    order = np.lexsort((good["row"], good["track_id"], bucket))
    good, bucket = good[order], bucket[order]
    sensors = good["measurement"][:, _POSITION[SENSOR_ID.name]].astype(np.int64)
    distinct, codes = np.unique(sensors, return_inverse=True)
    of_sensor = pseudonyms(SENSOR, map(str, distinct.tolist()), keys)
    other = {name: each for name, each in texts.items() if name != OPERATOR_ID}
    label = good["reentry_phase"]
    columns: dict[str, Any] = {
        **landed.columns(content, len(good)),
        "row": good["row"],
        "bucket": bucket,
        TRACK_ID.name: good["track_id"],
        SENSOR_ID.name: np.array([of_sensor[str(each)] for each in distinct.tolist()], dtype=np.int64)[codes],
        REENTRY_PHASE.name: pa.array(label, pa.int8(), mask=label == NO_LABEL),
        OPERATOR_ID: _operators(texts.get(OPERATOR_ID), good["row"], keys),
        KEY_ID: pa.array([keys.current] * len(good), pa.string()),
        EXTRA: extra_column(other, simulated, good["row"], keys),
    }
    for name, position in _POSITION.items():
        values = good["measurement"][:, position]
        columns.setdefault(name, pa.array(values, pa.float64(), mask=np.isnan(values)))
    return pa.table([pa.array(columns[field.name], field.type) for field in RAW.schema], schema=RAW.schema)


def _operators(texts: Texts | None, rows: npt.NDArray[np.int64], keys: PseudonymKeys) -> pa.Array:
    if texts is None:
        return pa.nulls(len(rows), pa.int64())
    of_operator = pseudonyms(OPERATOR, texts[rows], keys)
    return pa.array([of_operator[text] if text else None for text in texts[rows]], pa.int64())
