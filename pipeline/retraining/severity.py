"""Severities of simulated tracks, which the table `raw` keeps if the landing file records them.

Measured tracks have no severity; the gate slices them by their sensors and their range alone.
"""

from __future__ import annotations

import json
import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.lake.lake import Lake
from pipeline.lake.tables import EXTRA, RAW, SEVERITY
from reentry.errors import LakeError
from reentry.schema import TRACK_ID

_log = logging.getLogger(__name__)


def severities(lake: Lake, track_ids: npt.NDArray[np.int64]) -> dict[int, str]:
    """Return the severity of each track that has one; empty if `raw` cannot be read, as by a role without access."""
    recorded = pc.match_substring(pc.field(EXTRA), f'"{SEVERITY}"')
    chosen = pc.field(TRACK_ID.name).isin(pa.array(track_ids)) & recorded
    try:
        with lake.errors(RAW.name):
            rows = lake.open(RAW.name).to_pyarrow_dataset().to_table(columns=[TRACK_ID.name, EXTRA], filter=chosen)
    except LakeError as error:
        _log.info("no slices by severity: %s", error)
        return {}
    found = {}
    for pair in rows.group_by([TRACK_ID.name, EXTRA]).aggregate([]).to_pylist():
        severity = json.loads(pair[EXTRA])[SEVERITY]
        if isinstance(severity, int):  # a column of the same name in the file has a pseudonym
            found[pair[TRACK_ID.name]] = str(severity)
    return found
