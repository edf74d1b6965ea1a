"""The command `reentry ingest`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json, LakeLocation, LandingLocation, PipelineConfig


def ingest(
    config: PipelineConfig = None,
    hour: Annotated[str | None, typer.Option(help="One hour, YYYY-MM-DDTHH in UTC.")] = None,
    since: Annotated[str | None, typer.Option(help="First hour; with --until.")] = None,
    until: Annotated[str | None, typer.Option(help="Last hour, included.  [default: the current hour]")] = None,
    landing: LandingLocation = None,
    lake: LakeLocation = None,
    as_json: Json = False,
) -> None:
    """Add the new files of the landing folder to the table raw; what breaks a rule goes to the table quarantine.

    Files lie in one folder for each hour, such as 2026-12-01T08/radar.csv. Without --hour or --since, the last 48 hours
    are looked at. A file is ingested once, however often and by however many processes the command runs; a file that
    was uploaded again with another content replaces its earlier rows. The exit status is 1 if more than 5 % of an
    hour's rows are bad; none of its rows are added then.

    Example: `reentry ingest --landing artifacts/landing --hour 2026-12-01T08`
    """
    import datetime as dt

    from pipeline.ingest.hours import hour_name, hours_between, last_hours, parse_hour
    from pipeline.settings import read_pipeline_settings

    now = dt.datetime.now(dt.UTC)
    settings = read_pipeline_settings(config, landing=landing, lake=lake)
    if hour is not None and (since is not None or until is not None):
        raise typer.BadParameter("give --hour, or --since and --until")
    if until is not None and since is None:
        raise typer.BadParameter("--until needs --since")
    if hour is not None:
        hours = [hour_name(parse_hour(hour))]
    elif since is not None:
        hours = hours_between(since, until or hour_name(now))
    else:
        hours = last_hours(settings.lookback_hours, now)

    from pipeline.ingest.ingest import ingest as ingest_hours

    report = ingest_hours(settings, hours)
    typer.echo(json.dumps(report.as_dict()) if as_json else report.summary())
    if report.failed:
        raise typer.Exit(code=1)
