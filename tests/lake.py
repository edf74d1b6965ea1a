"""Tables of a lake, made from simulated flights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.lake.lake import Lake
from pipeline.lake.tables import CLEAN, bucket_of


def write_clean(folder: Path | str, flights: pd.DataFrame, key: str = "flights") -> int:
    """Add flights to the table `clean`, and return its version."""
    lake = Lake(str(folder))
    ordered = flights.sort_values(["track_id", "timestamp"], kind="stable")
    bucket = bucket_of(ordered["track_id"].to_numpy(np.int64))
    rows = ordered.assign(bucket=bucket, key_id="k1").reindex(columns=CLEAN.schema.names)
    rows["reentry_phase"] = rows["reentry_phase"].astype("Int8")
    rows["operator_id"] = rows["operator_id"].astype("Int64")
    table = pa.Table.from_pandas(rows, schema=CLEAN.schema, preserve_index=False)
    lake.commit_once(CLEAN.name, [key], lambda _new, _table: table)
    return lake.open(CLEAN.name).version()
