"""Every anomaly, planted at random: no row is lost or doubled, and nothing that identifies anybody is stored."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clean.build import build_clean
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from tests.landing import HOUR, flat_track, land, pipeline_settings

SECRET = "Zebediah-7391"
BAD_CELLS = {
    "timestamp": ["", "soon", "-1", "1e13", "nan", "inf"],
    "track_id": ["", "x", "1.5", str(2**70), SECRET],
    "sensor_id": ["", SECRET, "2.5", str(2**60), "nan"],
    "latitude": [SECRET, "91", "-91", "inf"],
    "longitude": [SECRET, "361", "inf"],
    "altitude": [SECRET, "1e9", "-1e6"],
    "radiometric_intensity": ["bright", "inf", SECRET],
    "reentry_phase": ["2", "maybe", "0.5", SECRET],
}
HARMLESS_CELLS = {
    "latitude": [""],
    "altitude": ["", "nan"],
    "radiometric_intensity": ["", "-0.25"],
    "reentry_phase": ["", "True", "1.0"],
    "longitude": ["-180.0"],
}
CHOICES = [(name, text, True) for name, texts in BAD_CELLS.items() for text in texts] + [
    (name, text, False) for name, texts in HARMLESS_CELLS.items() for text in texts
]

cells = st.lists(st.tuples(st.integers(0, 59), st.sampled_from(CHOICES)), max_size=8)
extra = st.sampled_from(["", "operator_id", "remark", "operator_id,remark"])
misfits = st.lists(st.integers(0, 59), max_size=2)


@given(planted=cells, columns=extra, too_long=misfits, order=st.randoms(use_true_random=False), drop=st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_each_row_is_in_raw_or_in_quarantine(
    planted: list[Any], columns: str, too_long: list[int], order: Any, drop: bool
) -> None:
    table = pd.concat([flat_track(number) for number in (1, 2, 3)], ignore_index=True).astype(object)
    bad: set[int] = set()
    cell_of = {(row, name): (text, is_bad) for row, (name, text, is_bad) in planted}
    for (row, name), (text, is_bad) in cell_of.items():
        table.loc[row, name] = text
        bad |= {row} if is_bad else set()
    for name in filter(None, columns.split(",")):
        table[name] = SECRET
    if drop and not any(name == "reentry_phase" for _, name in cell_of):
        table = table.drop(columns="reentry_phase")
    shuffled = list(table.columns)
    order.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as folder:
        options = pipeline_settings(Path(folder), bad_row_limit=1.0)
        path = land(options, "a.csv", table[shuffled])
        lines = path.read_text().splitlines()
        for row in too_long:
            lines[row + 1] += ",1"
            bad.add(row)
        path.write_text("\n".join(lines) + "\n")
        [report] = ingest(options, [HOUR]).hours
        lake = Lake(options.lake)
        raw = lake.open("raw").to_pandas()
        quarantine = lake.open("quarantine").to_pandas()
        build_clean(lake)
        assert (report.rows, report.bad_rows) == (60, len(bad))
        assert Counter(raw["row"]) == Counter(set(range(60)) - bad)
        assert set(quarantine["row"].astype(int)) == bad
        stored = b"".join(file.read_bytes() for file in Path(options.lake).rglob("*") if file.is_file())
        assert SECRET.encode() not in stored
        assert SECRET not in raw.to_csv() + quarantine.to_csv()
        assert SECRET not in str(report)
        assert not ingest(options, [HOUR]).hours[0].ingested
