"""The commands `reentry lake ...`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, LakeLocation, PipelineConfig

_log = logging.getLogger(__name__)

lake = typer.Typer(
    no_args_is_help=True,
    help="Tables of the data pipeline: state, cleaning, export, maintenance.",
    epilog="Example: `reentry lake status`",
)


@lake.command()
def clean(
    config: PipelineConfig = None,
    location: LakeLocation = None,
    raw_version: Annotated[
        int | None, typer.Option(help="Version of the table raw.  [default: the newest]", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Build whole, repaired tracks in the table clean from the rows of the table raw.

    Only tracks with changed rows are written again. Tracks beyond repair go to the table quarantine.

    Example: `reentry lake clean`
    """
    from dataclasses import asdict

    from pipeline.clean.build import build_clean
    from pipeline.lake.lake import Lake
    from pipeline.settings import read_pipeline_settings

    report = build_clean(Lake(read_pipeline_settings(config, lake=location).lake), raw_version)
    typer.echo(json.dumps(asdict(report)) if as_json else report.summary())


@lake.command()
def status(config: PipelineConfig = None, location: LakeLocation = None, as_json: Json = False) -> None:
    """Print the version and size of each table, the newest hour, and what waits in quarantine.

    Example: `reentry lake status --json`
    """
    from pipeline.lake.lake import Lake
    from pipeline.lake.status import lake_status
    from pipeline.settings import read_pipeline_settings

    found = lake_status(Lake(read_pipeline_settings(config, lake=location).lake))
    typer.echo(json.dumps(found.as_dict()) if as_json else found.summary())


@lake.command()
def export(
    table: Annotated[str, typer.Argument(help="lake:clean@VERSION, or lake:clean for the newest version.")],
    out: Annotated[Path, typer.Argument(help="File to write, .csv or .parquet.")],
    config: PipelineConfig = None,
    location: LakeLocation = None,
) -> None:
    """Write the tracks of the table clean as a file of tracks, for commands that read files.

    Example: `reentry lake export lake:clean@12 tracks.parquet`
    """
    from pipeline.lake.export import export_tracks
    from pipeline.lake.lake import Lake
    from pipeline.lake.reference import TableReference
    from pipeline.settings import read_pipeline_settings

    reference = TableReference.parse(table)
    written = export_tracks(Lake(read_pipeline_settings(config, lake=location).lake), reference, out)
    typer.echo(f"{out}: {written.tracks:,} tracks, {written.rows:,} rows of {written.reference}")


@lake.command()
def maintain(
    config: PipelineConfig = None,
    location: LakeLocation = None,
    dry_run: Annotated[bool, typer.Option(help="Change nothing; print what would be removed.")] = False,
    retention_hours: Annotated[
        int, typer.Option(help="Hours for which a file is kept after the last version with it.", min=0, max=168)
    ] = 168,
    without_runs: Annotated[
        bool,
        typer.Option(
            help="Keep no version for training runs, and for models only with --repository: none was trained on these."
        ),
    ] = False,
    repository: Annotated[
        str | None,
        typer.Option(
            help="Model repository, a folder or s3://BUCKET/PREFIX.  [default: that of the settings]", metavar="PLACE"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compact small files, and remove files that neither the newest version nor a training run or a model needs.

    Every version that a recorded run names stays readable, unless the run has failed or was deleted. So does every
    version that the model in production, the candidate, or a model that a rollback returns to was trained on, whatever
    became of its run. A reader or writer that started longer ago than --retention-hours fails. Run the command daily.

    Example: `reentry lake maintain --dry-run`
    """
    from pipeline.lake.lake import Lake
    from pipeline.lake.maintenance import maintain as maintain_tables
    from pipeline.settings import read_pipeline_settings

    settings = read_pipeline_settings(config, lake=location, repository=repository)
    reports = maintain_tables(
        Lake(settings.lake),
        dry_run=dry_run,
        retention_hours=retention_hours,
        runs=[] if without_runs else None,
        repository=None if without_runs and repository is None else settings.repository,
    )
    typer.echo(
        json.dumps([report.as_dict() for report in reports])
        if as_json
        else "\n".join(report.summary(dry_run=dry_run) for report in reports)
    )


@lake.command()
def contract() -> None:
    """Print the contract of landing files, a document of the Open Data Contract Standard 3.1.

    Example: `reentry lake contract > docs/contract.odcs.yaml`
    """
    from pipeline.ingest.contract import contract_document

    typer.echo(contract_document(), nl=False)


@lake.command()
def exporter(
    config: PipelineConfig = None,
    location: LakeLocation = None,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the metrics; 0 takes a free one.")] = 9108,
) -> None:
    """Serve metrics of the tables to Prometheus: the newest hour, rows, entries in quarantine, refusals of the gate.

    Example: `reentry lake exporter --address 0.0.0.0 --port 9108`
    """
    from pipeline.lake.exporter import serve_metrics
    from pipeline.lake.lake import Lake
    from pipeline.settings import read_pipeline_settings
    from reentry.errors import ConfigError

    tables = Lake(read_pipeline_settings(config, lake=location).lake)
    try:
        port, thread = serve_metrics(tables, address, port)
    except OSError as error:
        raise ConfigError("cannot listen", where=f"{address}:{port}", got=error.strerror, fix="--port") from error
    _log.info("metrics of %s at http://%s:%d/metrics", tables.location, address, port)
    thread.join()
