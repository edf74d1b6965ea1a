"""The jobs that build no table: maintenance and retraining."""

from __future__ import annotations

import datetime as dt
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
from training.runs.mlflow_store import open_store, tracking_uri

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
    assert (
        "there is no record of runs" in missing.failure_data_for_node("maintain_tables").user_failure_data.description
    )
    assert len(lake.open("raw").file_uris()) == 3
    open_store(tracking_uri())  # creates it
    assert execute("maintenance", instance).success
    assert len(lake.open("raw").file_uris()) == 1
    assert rows(lake, "raw").equals(before)


def retraining(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, report: retrain.RetrainReport, reason: Reason
) -> tuple[Any, Any]:
    """Execute the job with a function that trains nothing; return the result and the arguments of the function."""
    function = Mock(return_value=report)
    monkeypatch.setattr(retrain, "retrain", function)
    result = execute("retraining", instance, retraining_for(reason))
    function.assert_called_once()
    return result, function.call_args.args


def test_a_retraining_that_is_not_due_succeeds_with_its_report(
    settings: PipelineSettings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + "REPOSITORY", "s3://models/production")
    report = retrain.RetrainReport(not_due="nothing is new")
    result, (config, given) = retraining(instance, monkeypatch, report, Reason.DRIFT)
    assert result.success
    assert (config.reason, config.repository) == (Reason.DRIFT, "s3://models/production")
    assert (config.if_due, config.export, config.promote) == (True, True, False)
    assert given.lake == settings.lake
    (output,) = (event for event in result.all_events if event.is_successful_output)
    assert output.event_specific_data.metadata["not_due"].value == "nothing is new"


def test_a_model_that_the_gate_refuses_fails_the_run_without_a_second_training(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain.RetrainReport, "refused", True)
    result, _ = retraining(instance, monkeypatch, retrain.RetrainReport(), Reason.SCHEDULE)
    failure = result.failure_data_for_node(retrain_model.name).user_failure_data
    assert failure.description == "the gate refused the new model"
    assert failure.metadata["refused"].value is True


def test_the_weekly_schedule_requests_a_retraining_for_the_schedule(instance: dg.DagsterInstance) -> None:
    schedule = defs.resolve_schedule_def("retraining_schedule")
    with dg.build_schedule_context(instance, scheduled_execution_time=dt.datetime(2026, 3, 2, 3, tzinfo=dt.UTC)) as at:
        (request,) = schedule.evaluate_tick(at).run_requests
    assert request.run_config == retraining_for(Reason.SCHEDULE).to_config_dict()
