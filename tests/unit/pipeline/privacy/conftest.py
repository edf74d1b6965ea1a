"""A lake whose tables are filled through ingestion, with two sensors, two operators and a track that both observed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.clean.build import build_clean
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.lake.tables import FEATURES_TABLE, PREDICTIONS
from pipeline.privacy.keys import load_keys
from pipeline.privacy.pseudonyms import OPERATOR, SENSOR, pseudonyms
from pipeline.settings import PipelineSettings
from tests.landing import HOUR, flat_track, land

ONE, TWO = 4711001, 4711002
"""Ids of the sensors."""
ALICE, BOB = "alice@example.org", "Bob-77"
"""Ids of their operators."""


@dataclass(frozen=True)
class Filled:
    """A filled lake."""

    settings: PipelineSettings
    lake: Lake

    def pseudonym(self, sensor: int) -> int:
        """Return the pseudonym of a sensor with the present keys."""
        return pseudonyms(SENSOR, [str(sensor)], load_keys(self.settings.pseudonym_keys))[str(sensor)]

    def operator(self, name: str) -> int:
        """Return the pseudonym of an operator with the present keys."""
        return pseudonyms(OPERATOR, [name], load_keys(self.settings.pseudonym_keys))[name]

    def rows(self, table: str, version: int | None = None) -> pd.DataFrame:
        """Return all rows of a table."""
        return self.lake.open(table, version).to_pyarrow_table().to_pandas(integer_object_nulls=True)

    def bytes(self) -> dict[str, bytes]:
        """Return the content of all files of the lake."""
        root = Path(self.settings.lake)
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fill(settings: PipelineSettings) -> Filled:
    """Fill all tables. Tracks 1 and 2 are of sensor one, 3 of sensor two, and 4 of both; row 25 is invalid."""
    both = flat_track(4, sensor=ONE)
    both.loc[10:, "sensor_id"] = TWO
    first = pd.concat([flat_track(1, sensor=ONE), flat_track(2, sensor=ONE), both], ignore_index=True)
    first["operator_id"] = ALICE
    first["note"] = "nothing"
    first.loc[3, "note"] = f"{TWO}.0"
    first = first.astype({"altitude": object})
    first.loc[25, "altitude"] = f"of {ALICE}"
    second = flat_track(3, sensor=TWO).assign(operator_id=BOB)
    land(settings, "first.csv", first)
    land(settings, "second.parquet", second)
    ingest(settings, [HOUR])
    lake = Lake(settings.lake)
    build_clean(lake)
    derive(lake)
    return Filled(settings, lake)


def derive(lake: Lake) -> None:
    """Fill the tables features and predictions from clean, without computing anything."""
    clean = lake.open("clean").to_pyarrow_table()
    columns = {
        "schema_version": pa.array([1] * clean.num_rows, pa.int32()),
        **{name: clean[name] for name in clean.column_names},
    }
    features = pa.table(
        [columns.get(field.name, pa.nulls(clean.num_rows, field.type)) for field in FEATURES_TABLE.schema],
        schema=FEATURES_TABLE.schema,
    )
    lake.commit_once("features", ["test"], lambda _new, _table: features)
    rows = clean.select(["bucket", "track_id", "step", "timestamp"]).to_pydict() | {
        "run": ["test"] * clean.num_rows,
        "source": [f"lake:clean@{lake.open('clean').version()}"] * clean.num_rows,
        "model_version": [1] * clean.num_rows,
        "reentry_probability": [0.5] * clean.num_rows,
        "predicted_phase": [0] * clean.num_rows,
        "predicted_onset": [None] * clean.num_rows,
    }
    lake.commit_once("predictions", ["test"], lambda _new, _table: pa.table(rows, schema=PREDICTIONS.schema))


@pytest.fixture
def filled(settings: PipelineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """A filled lake in a folder, without recorded runs."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    return fill(settings)
