"""Sensors: new files in the landing folder, and drift of the features in production."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Final

import dagster as dg

from pipeline.canary.prometheus import NoFiguresError, Prometheus
from pipeline.flows.environment import HOURS, failures, pipeline_settings
from pipeline.flows.jobs import ingestion, retraining, retraining_for
from pipeline.ingest.hours import last_hours
from pipeline.retraining.reason import Reason

DRIFT: Final = (
    'reentry:feature_psi:avg{{namespace="{namespace}",used="true"}}'
    ' and on (namespace, feature) ALERTS{{alertname="ReentryDrift",alertstate="firing"}}'
)
"""Query for the population stability index of each feature for which the alert ReentryDrift fires."""


@dg.sensor(job=ingestion, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def new_files(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request a run for each of the last hours whose files have changed since the last tick.

    The cursor holds a digest of the files of each hour. The digest is also a part of the run key, so that the same
    files never start a second run, even if the cursor is lost.
    """
    from pipeline.ingest.landing import Landing
    from pipeline.privacy.keys import load_keys

    settings = pipeline_settings()
    now = dt.datetime.now(dt.UTC)
    seen: dict[str, str] = json.loads(context.cursor or "{}")
    with failures():
        landing = Landing(settings.landing, load_keys(settings.pseudonym_keys))
        landing.require()
        found = {
            hour: hashlib.sha256("".join(each.key for each in objects).encode()).hexdigest()
            for hour in last_hours(settings.lookback_hours, now)
            if HOURS.has_partition_key(hour) and (objects := landing.objects(hour))
        }
    requests = [
        dg.RunRequest(run_key=f"{hour} {digest}", partition_key=hour)
        for hour, digest in found.items()
        if seen.get(hour) != digest
    ]
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(found))


@dg.sensor(job=retraining, minimum_interval_seconds=600, default_status=dg.DefaultSensorStatus.RUNNING)
def drift(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a retraining if the alert ReentryDrift fires, but not while the pause after the last request lasts.

    The cursor holds the time of that request.
    """
    settings = pipeline_settings()
    if not settings.prometheus:
        return dg.SkipReason("no address of Prometheus in the settings")
    now = dt.datetime.now(dt.UTC)
    if context.cursor:
        pause = dt.datetime.fromisoformat(context.cursor) + dt.timedelta(days=settings.drift_pause_days)
        if now < pause:
            return dg.SkipReason(f"drift requests no other retraining before {pause:%Y-%m-%d %H:%M} UTC")
    try:
        series = Prometheus(settings.prometheus).series(DRIFT.format(namespace=settings.namespace))
    except NoFiguresError as error:
        return dg.SkipReason(f"drift is unknown: {error}")
    if not series:
        return dg.SkipReason("the alert ReentryDrift does not fire")
    drifted = {each.labels["feature"]: round(each.value, 3) for each in series}
    request = dg.RunRequest(
        # Two requests with a pause between them have different keys; a lost cursor repeats none of this period.
        run_key=f"drift {settings.drift_pause_days} d {int(now.timestamp()) // (86_400 * settings.drift_pause_days)}",
        run_config=retraining_for(Reason.DRIFT),
        tags={"reentry/drift": json.dumps(drifted)},
    )
    return dg.SensorResult(run_requests=[request], cursor=now.isoformat())
