"""What Dagster loads."""

from __future__ import annotations

from typing import Final

import dagster as dg

from pipeline.flows.jobs import (
    daily_maintenance,
    hourly_ingestion,
    ingestion,
    maintenance,
    retraining,
    weekly_retraining,
)
from pipeline.flows.sensors import drift, new_files
from pipeline.flows.tables import clean, features, raw

AUTOMATION: Final = dg.AutomationConditionSensorDefinition(
    "after_its_source",
    target=[clean, features],
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Build the tables clean and features after their sources.",
)

defs: Final = dg.Definitions(
    assets=[raw, clean, features],
    jobs=[ingestion, maintenance, retraining],
    schedules=[hourly_ingestion, daily_maintenance, weekly_retraining],
    sensors=[new_files, drift, AUTOMATION],
    # A run is a process of its own already, and has no steps at the same time.
    executor=dg.in_process_executor,
)
