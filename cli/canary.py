"""`reentry canary`: whether a new release may have more traffic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json
from cli.tables import print_table

if TYPE_CHECKING:
    from pipeline.canary.judge import Judgement

canary = typer.Typer(
    help="Judge a new release that serves beside the stable one.",
    epilog="Example: `reentry canary judge --prometheus http://127.0.0.1:9090`",
)

STATUS = {"pass": 0, "fail": 1, "inconclusive": 3}
"""Exit status of each verdict; 2 is wrong usage, such as an invalid setting."""


@canary.callback()
def _root() -> None:
    """Keep `judge` a command of its own, although it is the only one."""


@canary.command()
def judge(
    prometheus: Annotated[str, typer.Option(help="Address of Prometheus.", metavar="URL")],
    namespace: Annotated[str, typer.Option(help="Namespace of both releases.", metavar="NAME")] = "reentry",
    wait: Annotated[
        int, typer.Option(help="Judge again until the canary passes or fails, at most for this time; 0 judges once.")
    ] = 0,
    stable: Annotated[
        str | None, typer.Option(help="Triton of the stable release, for --tracks.", metavar="URL")
    ] = None,
    canary: Annotated[str | None, typer.Option(help="Triton of the canary, for --tracks.", metavar="URL")] = None,
    tracks: Annotated[
        Path | None, typer.Option(help="File of tracks that both score, to measure their agreement.", metavar="FILE")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with a table [canary].", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Compare a canary with the stable release by errors, p99, PSI and agreement.

    The exit status is 0 if the canary passes, 1 if it fails, and 3 if that is not known: too little traffic, missing
    metrics, or a Prometheus that does not answer. 2 is wrong usage.

    Example: `reentry canary judge --prometheus http://127.0.0.1:9090 --wait 1800`
    """
    from pipeline.canary.config import JudgeConfig, SameTracks, read_limits
    from pipeline.canary.judge import judge as judge_canary
    from reentry.errors import InputError

    if len({each is None for each in (stable, canary, tracks)}) > 1:
        raise typer.BadParameter("give --stable, --canary and --tracks together")
    try:
        same_tracks = None
        if stable is not None and canary is not None and tracks is not None:
            same_tracks = SameTracks(stable=stable, canary=canary, tracks=tracks)
        settings = JudgeConfig(
            prometheus=prometheus,
            namespace=namespace,
            wait=wait,
            same_tracks=same_tracks,
            limits=read_limits(config),
        )
        judgement = judge_canary(settings)
    except InputError as error:  # status 1 would be a verdict
        raise typer.BadParameter(str(error)) from error
    if as_json:
        typer.echo(json.dumps(as_dict(judgement)))
    else:
        print_table(
            ("check", "verdict", "reason"), ((each.name, each.verdict, each.reason) for each in judgement.checks)
        )
        typer.echo(f"{judgement.verdict}{f': {judgement.note}' if judgement.note else ''}")
    raise typer.Exit(STATUS[judgement.verdict])


def as_dict(judgement: Judgement) -> dict[str, Any]:
    """Convert a judgement for JSON, in which an infinite value is null."""
    from dataclasses import asdict
    from math import isfinite

    content = asdict(judgement)
    for check in content["checks"]:
        check["figures"] = {name: value if isfinite(value) else None for name, value in check["figures"].items()}
    return content
