"""`reentry features`: the table of features, on which networks are trained."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import Json, LakeLocation, PipelineConfig

features = typer.Typer(
    help="Build the table of features, on which networks are trained.", epilog="Example: `reentry features build`"
)


@features.callback()
def _root() -> None:
    """Keep `build` a subcommand."""


@features.command("build")
def build(
    config: PipelineConfig = None,
    lake: LakeLocation = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the table clean.  [default: the newest]", min=0)
    ] = None,
    orbit: Annotated[
        bool, typer.Option(help="Also compute the features of the orbit filter, which takes most of the time.")
    ] = True,
    processes: Annotated[int, typer.Option(help="Number of processes, each with one part of the tracks.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Compute the features of all labelled tracks of the table clean, and replace the table features by them.

    A version of clean is built once: a second call prints the version of features that the first one wrote. Only the
    buckets of tracks that changed since the last build are computed. Train on it with `reentry train
    lake:features@VERSION`.

    Example: `reentry features build --version 12`
    """
    from pipeline.features.build import build_features
    from pipeline.lake.lake import Lake
    from pipeline.settings import read_pipeline_settings
    from reentry.features.groups import ALL_GROUPS, WITHOUT_COMPILER

    settings = read_pipeline_settings(config, lake=lake)
    groups = ALL_GROUPS if orbit else WITHOUT_COMPILER
    report = build_features(Lake(settings.lake), version, groups=groups, processes=processes)
    typer.echo(json.dumps(report.as_dict()) if as_json else report.summary())
