"""The command `reentry score-bulk`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from cli.interruption import interruption
from cli.options import DEFAULT_REPOSITORY, Json, LakeLocation, PipelineConfig, RepositoryLocation


def score_bulk(
    source: Annotated[
        str, typer.Argument(metavar="TABLE", help="lake:clean@VERSION, or lake:clean for its newest version.")
    ],
    config: PipelineConfig = None,
    lake: LakeLocation = None,
    repository: RepositoryLocation = DEFAULT_REPOSITORY,
    model_version: Annotated[
        str, typer.Option(help="Version that scores: a number, `candidate` or `production`.")
    ] = "production",
    processes: Annotated[
        int | None, typer.Option(help="Number of worker processes on this machine.  [default: one per core]")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Score on a Ray cluster: HOST:PORT, `auto`, or `local` for a trial.", metavar="PLACE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a version of the table clean, however large, and add the results to the table predictions in one commit.

    The workers take parts of whole tracks and write one file for each; only names and counts pass through this process.
    A part whose worker is lost is scored again. The results do not depend on the number of workers. An interrupted run
    keeps its finished parts; run the same command again to resume it. A run is committed once, however often the
    command runs.

    Example: `reentry score-bulk lake:clean@3 --processes 8`
    """
    from pipeline.bulk.run import BulkConfig
    from pipeline.bulk.run import score_bulk as score
    from pipeline.lake.reference import TableReference
    from pipeline.settings import read_pipeline_settings

    settings = read_pipeline_settings(config, lake=lake)
    bulk = BulkConfig(
        source=TableReference.parse(source),
        lake=settings.lake,
        repository=repository,
        model_version=model_version,
        processes=processes,
        address=address,
        part_rows=settings.bulk_part_rows,
    )
    with interruption("finished parts are kept; run the same command again to resume"):
        summary = score(bulk)
    typer.echo(json.dumps(asdict(summary)) if as_json else summary.summary())
