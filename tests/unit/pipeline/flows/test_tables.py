"""The assets against the functions that the commands call, one hour a run, in backfills and after their sources."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._daemon.backfill import execute_backfill_iteration

from pipeline.clean.build import build_clean
from pipeline.features.build import build_features
from pipeline.flows import definitions
from pipeline.flows.definitions import defs
from pipeline.flows.tables import NO_BAD_ROWS, raw
from pipeline.ingest.ingest import ingest
from pipeline.lake.lake import Lake
from pipeline.settings import PREFIX, PipelineSettings
from tests.landing import flat_track, land
from tests.unit.pipeline.flows.conftest import DAGSTERS_OWN_WARNINGS, Daemons, rows

pytestmark = DAGSTERS_OWN_WARNINGS

HOURS = ("2026-12-01T08", "2026-12-01T09", "2026-12-01T10")


def test_the_definitions_are_valid() -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_example_of_an_instance_is_valid_and_sends_no_telemetry(tmp_path: Path) -> None:
    shutil.copy(Path(definitions.__file__).with_name("dagster.yaml"), tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 2
        assert type(instance.run_storage).__name__ == "SqliteRunStorage"


def test_a_run_for_each_hour_equals_the_commands(
    settings: PipelineSettings, lake: Lake, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for number, hour in enumerate(HOURS[:2]):
        land(settings, "a.csv", flat_track(number), hour=hour)
    for hour in HOURS[:2]:
        assert materialize(["raw"], instance, hour).success
    assert materialize(["clean", "features"], instance).success
    by_commands = Lake(str(tmp_path / "by-commands"))
    ingest(replace(settings, lake=by_commands.location), HOURS[:2])
    build_clean(by_commands)
    build_features(by_commands)
    for table in ("raw", "clean", "features"):
        pd.testing.assert_frame_equal(rows(lake, table), rows(by_commands, table))
    assert len(rows(lake, "features")) == 40


def test_the_metadata_of_a_run_are_the_report(settings: PipelineSettings, instance: dg.DagsterInstance) -> None:
    land(settings, "a.csv", flat_track(1), hour=HOURS[0])
    (materialization,) = materialize(["raw"], instance, HOURS[0]).asset_materializations_for_node("raw")
    found = {name: entry.value for name, entry in materialization.metadata.items()}
    assert (found["ingested"], found["rows"], found["bad_rows"], found["raw_version"]) == (1, 20, 0, 1)


def test_an_hour_with_a_few_bad_rows_passes_with_a_warning(
    settings: PipelineSettings, instance: dg.DagsterInstance
) -> None:
    bad = flat_track(3).assign(latitude=[95.0, *[10.0] * 19])
    land(settings, "a.csv", *map(flat_track, range(3)), bad, hour=HOURS[0])
    result = materialize(["raw"], instance, HOURS[0])
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == (NO_BAD_ROWS, False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["bad_rows"].value == 1


def test_an_hour_with_too_many_bad_rows_fails_with_its_report_and_without_a_retry(
    settings: PipelineSettings, instance: dg.DagsterInstance
) -> None:
    land(settings, "a.csv", flat_track(1), flat_track(2).assign(latitude=95.0), hour=HOURS[0])
    result = materialize(["raw"], instance, HOURS[0])
    assert not result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    failure = result.failure_data_for_node("raw").user_failure_data
    assert failure.description.startswith("2026-12-01T08: 20 of 40 rows are bad, more than 5%")
    assert failure.metadata["bad_rows"].value == 20
    assert not instance.get_latest_materialization_event(raw.key)


def test_a_setting_that_is_invalid_fails_without_a_retry(
    settings: PipelineSettings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings, "a.csv", flat_track(1), hour=HOURS[0])
    monkeypatch.setenv(PREFIX + "PSEUDONYM_KEYS", "file:/nowhere/keys.json")
    result = materialize(["raw"], instance, HOURS[0])
    failure = result.failure_data_for_node("raw").user_failure_data
    assert "/nowhere/keys.json" in failure.description
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_an_unavailable_store_is_tried_again(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "LANDING", "/nowhere/landing")
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0)
    result = materialize(["raw"], instance, HOURS[0])
    assert not result.success
    assert sum(event.is_step_up_for_retry for event in result.all_events) == 3


def test_a_backfill_starts_one_run_for_each_hour_and_then_builds_the_other_tables_once(
    settings: PipelineSettings, lake: Lake, daemons: Daemons
) -> None:
    for number, hour in enumerate(HOURS):
        land(settings, "a.csv", flat_track(number), hour=hour)
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="hours",
        asset_graph=defs.resolve_asset_graph(),
        partition_names=HOURS,
        asset_selection=[dg.AssetKey("raw"), dg.AssetKey("clean"), dg.AssetKey("features")],
        backfill_timestamp=pd.Timestamp.now("UTC").timestamp(),
        tags={},
        dynamic_partitions_store=daemons.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    daemons.instance.add_backfill(backfill)
    for _ in range(4):
        daemons.tick(execute_backfill_iteration)
    found = daemons.instance.get_backfill("hours")
    assert found is not None
    assert found.status == BulkActionStatus.COMPLETED_SUCCESS
    of_hours = [run.tags.get("dagster/partition") for run in daemons.runs()]
    assert [hour for hour in of_hours if hour] == [*HOURS]
    assert len(of_hours) == 4
    assert sorted(set(rows(lake, "clean")["track_id"])) == [0, 1, 2]
    assert len(rows(lake, "features")) == 60


def test_clean_and_features_are_built_once_after_hours_were_ingested(
    settings: PipelineSettings, instance: dg.DagsterInstance
) -> None:
    result = dg.evaluate_automation_conditions(defs, instance)
    assert result.total_requested == 0
    for number, hour in enumerate(HOURS[:2]):
        land(settings, "a.csv", flat_track(number), hour=hour)
        materialize(["raw"], instance, hour)
    result = dg.evaluate_automation_conditions(defs, instance, cursor=result.cursor)
    assert (result.get_num_requested(dg.AssetKey("clean")), result.get_num_requested(dg.AssetKey("features"))) == (1, 1)
    materialize(["clean", "features"], instance)
    result = dg.evaluate_automation_conditions(defs, instance, cursor=result.cursor)
    assert result.total_requested == 0


def materialize(names: Sequence[str], instance: dg.DagsterInstance, hour: str | None = None) -> Any:
    """Run assets in this process."""
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        partition_key=hour,
        raise_on_error=False,
        asset_selection=[dg.AssetKey(name) for name in names],
    )
