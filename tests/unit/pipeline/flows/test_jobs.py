"""The jobs that build no table: maintenance and retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest

from pipeline.flows.definitions import defs
from pipeline.flows.jobs import retrain_model, retraining_for
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.retraining import retrain
from pipeline.retraining.reason import Reason
from pipeline.settings import PREFIX, PipelineSettings
from tests.landing import HOUR, flat_track, land
from tests.unit.pipeline.flows.conftest import DAGSTERS_OWN_WARNINGS, rows

pytestmark = DAGSTERS_OWN_WARNINGS


def execute(name: str, instance: dg.DagsterInstance, config: dg.RunConfig | None = None) -> Any:
    job = defs.resolve_job_def(name)
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def test_maintenance_compacts_the_tables(
    settings: PipelineSettings,
    lake: Lake,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(3):
        land(settings, f"{number}.csv", flat_track(number))
        ingest(settings, [HOUR])
    before = rows(lake, "raw")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    missing = execute("maintenance", instance)
    assert "there is no record of runs" in missing.failure_data_for_node("maintain_tables").user_failure_data.description
    assert len(lake.open("raw").file_uris()) == 3
    retrain_store(tmp_path / "runs.db")
    assert execute("maintenance", instance).success
    assert len(lake.open("raw").file_uris()) == 1
    assert rows(lake, "raw").equals(before)
