"""Rows of `quarantine`: the faults of a landing file, with previews that hide ids and exact places.

Shapes: N faults.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.ingest.landing import Landed
from pipeline.lake.tables import OPEN, QUARANTINE
from pipeline.privacy.scrub import masked, rounded
from reentry.schema import LATITUDE, LONGITUDE, MEASUREMENT_COLUMNS
from reentry.tracks.cells import Records

_COORDINATES: Final = [MEASUREMENT_COLUMNS.index(each.name) for each in (LATITUDE, LONGITUDE)]


def masked_names(problem: str) -> str:
    """Return the problem of a file without the texts that the file chose, such as a misspelt column name.

    Such a text is quoted, and may itself contain quotes, so everything from the first to the last quote is masked.
    """
    return re.sub(
        r"([\"']).*[\"']", lambda match: f"{match[1]}{masked(match[0][1:-1])}{match[1]}", problem, flags=re.DOTALL
    )


def with_previews(faults: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Add the track of each fault and a preview of its cell without digits and letters."""
    order = np.searchsorted(records["row"], faults["row"].to_numpy(np.int64))
    known = np.append(records["row"], -1)[order] == faults["row"].to_numpy(np.int64)
    place = np.minimum(order, max(len(records) - 1, 0))
    previews: list[str] = []
    tracks: list[int | None] = []
    for index, (column, got) in enumerate(zip(faults["column"], faults["got"], strict=True)):
        text = str(got) if column == "" or got == "nothing" else masked(str(got))
        if known[index]:
            latitude, longitude = records["measurement"][place[index], _COORDINATES].tolist()
            text += f" near {_place(latitude, longitude)}"
        previews.append(text)
        tracks.append(int(records["track_id"][place[index]]) if known[index] else None)
    return faults.assign(preview=previews, track_id=pd.array(tracks, dtype="Int64"))


def _place(latitude: float, longitude: float) -> str:
    """Return coordinates for a preview. A value out of range may be an id in the wrong column."""
    plausible = abs(latitude) <= 90.0 and abs(longitude) <= 360.0
    return f"{rounded(latitude)}, {rounded(longitude)} degrees" if plausible else "an invalid place"


def quarantine_rows(faults: pd.DataFrame, landed: Landed, content: str) -> pa.Table:
    """Return the rows of `quarantine` for faults with previews.

    Args:
        faults: The faults, with the columns `row`, `column`, `problem`, `preview` and `track_id`.
        landed: The file.
        content: Fingerprint of the file.
    """
    count = len(faults)
    columns = {
        **landed.columns(content, count),
        "row": pa.array(faults["row"].tolist(), pa.int64()),
        "track_id": pa.array([None if pd.isna(each) else int(each) for each in faults["track_id"]], pa.int64()),
        "column": pa.array([each or None for each in faults["column"]], pa.string()),
        "rule": pa.array(faults["problem"].tolist(), pa.string()),
        "preview": pa.array(faults["preview"].tolist(), pa.string()),
        "status": pa.array([OPEN] * count, pa.string()),
    }
    return pa.table(columns, schema=QUARANTINE.schema)
