"""Assets: the tables raw, by the hour, clean and features."""

# No `from __future__ import annotations`: Dagster needs the annotations as types.

from dataclasses import asdict
from typing import Final

import dagster as dg

from pipeline.flows.environment import HOURS, RETRIES, failures, pipeline_settings

NO_BAD_ROWS: Final = "no_bad_rows"

_AFTER_ITS_SOURCE: Final = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
"""Build once after all runs that write the source have ended, however many there were."""


@dg.asset(
    partitions_def=HOURS,
    retry_policy=RETRIES,
    check_specs=[dg.AssetCheckSpec(NO_BAD_ROWS, asset="raw", description="No row of the hour is in quarantine.")],
)
def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Rows of the landing files of an hour, as `reentry ingest --hour` adds them.

    An hour with too many bad rows fails, and its report is the metadata of the failure.
    """
    from pipeline.ingest.ingest import ingest

    settings = pipeline_settings()
    with failures():
        report = ingest(settings, [context.partition_key])
    (hour,) = report.hours
    facts = {**asdict(hour), "raw_version": report.raw_version}
    if hour.failed:
        raise dg.Failure(
            f"{hour.hour}: {hour.bad_rows:,} of {hour.rows:,} rows are bad, more than "
            f"{settings.bad_row_limit:.0%}; nothing was added to raw",
            metadata=facts,
            allow_retries=False,
        )
    check = dg.AssetCheckResult(
        check_name=NO_BAD_ROWS,
        passed=not hour.bad_rows and not hour.unusable,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rows": hour.rows, "bad_rows": hour.bad_rows, "unusable_files": hour.unusable},
    )
    return dg.MaterializeResult(metadata=facts, check_results=[check])


@dg.asset(deps=[raw], retry_policy=RETRIES, automation_condition=_AFTER_ITS_SOURCE)
def clean() -> dg.MaterializeResult[None]:
    """Whole, repaired tracks, as `reentry lake clean` builds them."""
    from pipeline.clean.build import build_clean
    from pipeline.lake.lake import Lake

    with failures():
        report = build_clean(Lake(pipeline_settings().lake))
    return dg.MaterializeResult(metadata=asdict(report))


@dg.asset(deps=[clean], retry_policy=RETRIES, automation_condition=_AFTER_ITS_SOURCE)
def features() -> dg.MaterializeResult[None]:
    """Features of all labelled tracks, as `reentry features build` computes them."""
    from pipeline.features.build import build_features
    from pipeline.lake.lake import Lake

    with failures():
        report = build_features(Lake(pipeline_settings().lake))
    return dg.MaterializeResult(metadata=report.as_dict())
