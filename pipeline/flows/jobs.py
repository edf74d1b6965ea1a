"""Jobs and their schedules: ingestion by the hour, maintenance by the day, retraining by the week or after drift."""

# No `from __future__ import annotations`: Dagster needs the annotations as types.

import datetime as dt
from pathlib import Path
from typing import Final

import dagster as dg

from pipeline.flows.environment import RETRIES, failures, pipeline_settings
from pipeline.flows.tables import raw
from pipeline.ingest.hours import hour_name
from pipeline.retraining.reason import Reason

CHECKPOINTS: Final = Path("artifacts/retrain")
"""Folder of new checkpoints, as for `reentry retrain`."""
_RUNNING: Final = dg.DefaultScheduleStatus.RUNNING

ingestion: Final = dg.define_asset_job("ingestion", selection=[raw], description="Ingest the files of one hour.")


@dg.schedule(job=ingestion, cron_schedule="5 * * * *", execution_timezone="UTC", default_status=_RUNNING)
def hourly_ingestion(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request a run for the hour that ended, five minutes after its end."""
    hour = hour_name(context.scheduled_execution_time - dt.timedelta(hours=1))
    return dg.RunRequest(partition_key=hour)


@dg.op(retry_policy=RETRIES)
def maintain_tables(context: dg.OpExecutionContext) -> None:
    """Compact small files and remove those that nothing needs, as `reentry lake maintain` does."""
    from pipeline.lake.lake import Lake
    from pipeline.lake.maintenance import maintain

    with failures():
        settings = pipeline_settings()
        reports = maintain(Lake(settings.lake), repository=settings.repository)
    for report in reports:
        context.log.info(report.summary())
    context.add_output_metadata({report.table: report.as_dict() for report in reports})


@dg.job(description="Compact the tables, and remove files that no kept version needs.")
def maintenance() -> None:
    """Maintain all tables."""
    maintain_tables()


daily_maintenance: Final = dg.ScheduleDefinition(
    job=maintenance, cron_schedule="30 2 * * *", execution_timezone="UTC", default_status=_RUNNING
)


class Retraining(dg.Config):
    """Configuration of a retraining."""

    reason: Reason
    if_due: bool = True


@dg.op(retry_policy=RETRIES)
def retrain_model(context: dg.OpExecutionContext, config: Retraining) -> None:
    """Train on the newest features and install a candidate, as `reentry retrain --if-due --export` does.

    The run fails if the gate refuses the new model.
    """
    from pipeline.retraining.retrain import RetrainConfig, retrain

    settings = pipeline_settings()
    with failures():
        report = retrain(
            RetrainConfig(
                reason=config.reason,
                repository=settings.repository,
                out=CHECKPOINTS,
                if_due=config.if_due,
                export=True,
            ),
            settings,
        )
    if report.refused:
        raise dg.Failure("the gate refused the new model", metadata=report.as_dict(), allow_retries=False)
    context.log.info(report.summary())
    context.add_output_metadata(report.as_dict())


@dg.job(description="Train on the newest features, compare with production, and install a candidate.")
def retraining() -> None:
    """Retrain the model."""
    retrain_model()


def retraining_for(reason: Reason) -> dg.RunConfig:
    """Return the configuration of a run of `retraining` that trains if it is due."""
    return dg.RunConfig(ops={retrain_model.name: Retraining(reason=reason)})


weekly_retraining: Final = dg.ScheduleDefinition(
    job=retraining,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    run_config=retraining_for(Reason.SCHEDULE),
    default_status=_RUNNING,
)
