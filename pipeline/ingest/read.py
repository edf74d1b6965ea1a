"""Reading of one landing file into rows of `raw` and of `quarantine`.

Ids of sensors and operators become pseudonyms here, before anything is written.

Shapes: N rows of the file, M measurement columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline.ingest.landing import Landed
from pipeline.ingest.other_columns import Texts, read_other_columns
from pipeline.lake.tables import EXTRA, KEY_ID, OPEN, OPERATOR_ID, QUARANTINE, RAW, SEVERITY, bucket_of
from pipeline.privacy.keys import PseudonymKeys
from pipeline.privacy.pseudonyms import EXTRA_TEXT, OPERATOR, SENSOR, pseudonyms, usual_form
from pipeline.privacy.scrub import masked, rounded
from reentry.errors import TrackFileError
from reentry.schema import LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS, REENTRY_PHASE, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
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
_COLUMN_NAME: Final = re.compile(r"(?!.*[0-9]{3})[a-z][a-z0-9_]{0,39}")
"""Usual form of a column name, such as snr or band_2: small letters, and numbers of one or two digits."""
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
        landed=landed, content=content, raw=RAW.schema.empty_table(), quarantine=_quarantine(entry, landed, content)
    )


def masked_names(problem: str) -> str:
    """Return the problem of a file without the texts that the file chose, such as a misspelt column name.

    Such a text is quoted, and may itself contain quotes, so everything from the first to the last quote is masked.
    """
    return re.sub(
        r"([\"']).*[\"']", lambda match: f"{match[1]}{masked(match[0][1:-1])}{match[1]}", problem, flags=re.DOTALL
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
        quarantine=_quarantine(_with_previews(faults, records), landed, content),
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


def _with_previews(faults: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Add the track of each fault and a preview of its cell without digits and letters."""
    order = np.searchsorted(records["row"], faults["row"].to_numpy(np.int64))
    known = np.append(records["row"], -1)[order] == faults["row"].to_numpy(np.int64)
    place = np.minimum(order, max(len(records) - 1, 0))
    previews: list[str] = []
    tracks: list[int | None] = []
    for index, (column, got) in enumerate(zip(faults["column"], faults["got"], strict=True)):
        text = str(got) if column == "" or got == "nothing" else masked(str(got))
        if known[index]:
            values = records["measurement"][place[index]]
            text += f" near {_place(*(float(values[_POSITION[each.name]]) for each in (LATITUDE, LONGITUDE)))}"
        previews.append(text)
        tracks.append(int(records["track_id"][place[index]]) if known[index] else None)
    return faults.assign(preview=previews, track_id=pd.array(tracks, dtype="Int64"))


def _place(latitude: float, longitude: float) -> str:
    """Return coordinates for a preview. A value out of range may be an id in the wrong column."""
    plausible = abs(latitude) <= 90.0 and abs(longitude) <= 360.0
    return f"{rounded(latitude)}, {rounded(longitude)} degrees" if plausible else "an invalid place"


def _quarantine(faults: pd.DataFrame, landed: Landed, content: str) -> pa.Table:
    count = len(faults)
    columns = {
        **_origin(landed, content, count),
        "row": pa.array(faults["row"].tolist(), pa.int64()),
        "track_id": pa.array([None if pd.isna(each) else int(each) for each in faults["track_id"]], pa.int64()),
        "column": pa.array([each or None for each in faults["column"]], pa.string()),
        "rule": pa.array(faults["problem"].tolist(), pa.string()),
        "preview": pa.array(faults["preview"].tolist(), pa.string()),
        "status": pa.array([OPEN] * count, pa.string()),
    }
    return pa.table(columns, schema=QUARANTINE.schema)


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
        **_origin(landed, content, len(good)),
        "row": good["row"],
        "bucket": bucket,
        TRACK_ID.name: good["track_id"],
        SENSOR_ID.name: np.array([of_sensor[str(each)] for each in distinct.tolist()], dtype=np.int64)[codes],
        REENTRY_PHASE.name: pa.array(label, pa.int8(), mask=label == NO_LABEL),
        OPERATOR_ID: _operators(texts.get(OPERATOR_ID), good["row"], keys),
        KEY_ID: pa.array([keys.current] * len(good), pa.string()),
        EXTRA: _extra(other, simulated, good["row"], keys),
    }
    for name, position in _POSITION.items():
        values = good["measurement"][:, position]
        columns.setdefault(name, pa.array(values, pa.float64(), mask=np.isnan(values)))
    return pa.table([pa.array(columns[field.name], field.type) for field in RAW.schema], schema=RAW.schema)


def _origin(landed: Landed, content: str, count: int) -> dict[str, Any]:
    values = {"hour": landed.hour, "object": landed.name, "etag": landed.etag, "content": content}
    return {name: pa.array([value] * count, pa.string()) for name, value in values.items()}


def _operators(texts: Texts | None, rows: npt.NDArray[np.int64], keys: PseudonymKeys) -> pa.Array:
    if texts is None:
        return pa.nulls(len(rows), pa.int64())
    of_operator = pseudonyms(OPERATOR, texts[rows], keys)
    return pa.array([of_operator[text] if text else None for text in texts[rows]], pa.int64())


def _extra(
    columns: Mapping[str, Texts], simulated: Mapping[str, int], rows: npt.NDArray[np.int64], keys: PseudonymKeys
) -> pa.Array:
    """Return unknown columns as JSON objects: plain decimal fractions stay, every other text becomes a pseudonym.

    So does a column name that is not in the usual form of one, because a file without a header has cells for names. A
    whole number or a text of an unknown column may identify somebody. What a simulation records of itself does not.
    """
    if not columns and not simulated:
        return pa.nulls(len(rows), pa.string())
    safe = {_safe_name(name, keys): _safe(texts[rows], keys) for name, texts in columns.items()}
    objects = ({name: safe[name][row] for name in safe} | dict(simulated) for row in range(len(rows)))
    return pa.array([json.dumps(each) for each in objects], pa.string())


def _safe_name(name: str, keys: PseudonymKeys) -> str:
    return name if _COLUMN_NAME.fullmatch(name) else f"hmac:{pseudonyms(EXTRA_TEXT, [name], keys)[name]}"


def _safe(texts: Texts, keys: PseudonymKeys) -> list[float | str | None]:
    cache: dict[str, float | str | None] = {"": None}
    for text in set(texts) - {""}:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        usual = usual_form(text)
        is_fraction = np.isfinite(number) and not number.is_integer()
        cache[text] = number if is_fraction else f"hmac:{pseudonyms(EXTRA_TEXT, [usual], keys)[usual]}"
    return [cache[text] for text in texts]
