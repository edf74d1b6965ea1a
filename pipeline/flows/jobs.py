"""Jobs and their schedules: ingestion by the hour, maintenance by the day, retraining by the week or after drift."""

# No `from __future__ import annotations`: Dagster needs the annotations as types.

import datetime as dt
from typing import Any, Final

import dagster as dg

from pipeline.flows.environment import RETRIES, failures, pipeline_settings
from pipeline.flows.tables import raw
from pipeline.ingest.hours import hour_name

_RUNNING: Final = dg.DefaultScheduleStatus.RUNNING

ingestion: Final = dg.define_asset_job("ingestion", selection=[raw], description="Ingest the files of one hour.")


@dg.schedule(job=ingestion, cron_schedule="5 * * * *", execution_timezone="UTC", default_status=_RUNNING)
def hourly_ingestion(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request a run for the hour that ended, five minutes after its end."""
    hour = hour_name(context.scheduled_execution_time - dt.timedelta(hours=1))
    return dg.RunRequest(run_key=hour, partition_key=hour)


class RetrainingConfig(dg.Config):
    """Configuration of a retraining."""

    reason: str = "manual"


def retraining_config(reason: str) -> dict[str, Any]:
    """Return the configuration of a run of `retraining`."""
    return {"ops": {"retrain_model": {"config": {"reason": reason}}}}


@dg.op
def retrain_model(config: RetrainingConfig) -> None:
    """Train a candidate, as `reentry retrain` does."""
    raise NotImplementedError


@dg.job
def retraining() -> None:
    """Train a candidate on the newest features and compare it with the model in production."""
    retrain_model()
