"""The contract of landing files: it satisfies its standard, is current, and says what ingestion does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import open_data_contract_standard
import pandas as pd
import pytest
import yaml

from pipeline.ingest.contract import contract, contract_document
from pipeline.ingest.ingest import ingest
from pipeline.settings import PipelineSettings
from tests.landing import HOUR, flat_track, land

ROOT = Path(__file__).parents[4]
COLUMNS: dict[str, dict[str, Any]] = {each["name"]: each for each in contract()["schema"][0]["properties"]}


def test_the_document_satisfies_the_standard() -> None:
    schema = json.loads(Path(open_data_contract_standard.__file__).with_name("schema.json").read_text())
    jsonschema.validate(yaml.safe_load(contract_document()), schema)


def test_the_committed_document_is_current() -> None:
    committed = (ROOT / "docs" / "contract.odcs.yaml").read_text()
    assert committed == contract_document(), "fix: reentry lake contract > docs/contract.odcs.yaml"


def cases() -> list[tuple[str, str, bool]]:
    """A column, a cell of it, and whether the contract admits it."""
    found = []
    for name, column in COLUMNS.items():
        if name == "operator_id":
            continue
        found.append((name, "", not column["required"]))
        whole = column["logicalType"] == "integer"
        step = 2 if name == "sensor_id" else 1
        for bound, beyond in (("minimum", -step), ("maximum", step)):
            if bound in column.get("logicalTypeOptions", {}):
                limit = column["logicalTypeOptions"][bound]
                found += [
                    (name, repr(limit), True),
                    (name, repr(int(limit + beyond) if whole else limit + beyond), False),
                ]
    return found


@pytest.mark.parametrize(("name", "text", "valid"), cases())
def test_ingestion_agrees_with_the_contract_on_a_cell(
    settings: PipelineSettings, name: str, text: str, valid: bool
) -> None:
    table = pd.concat([flat_track(1), flat_track(2)], ignore_index=True).astype(object)
    table.loc[3, name] = text
    land(settings, "a.csv", table)
    [report] = ingest(settings, [HOUR]).hours
    assert report.bad_rows == (0 if valid else 1)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_may_be_missing_only_where_the_contract_says_so(settings: PipelineSettings, name: str) -> None:
    table = flat_track(1).assign(operator_id="x", extra=np.arange(20))
    land(settings, "a.csv", table.drop(columns=name))
    [report] = ingest(settings, [HOUR]).hours
    assert report.unusable == (0 if "may be missing" in COLUMNS[name]["description"] else 1)
