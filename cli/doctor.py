"""The command `reentry doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_REPOSITORY, Json, RepositoryFolder

if TYPE_CHECKING:
    from reentry.serving.doctor import Check


def doctor(
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
    http_port: Annotated[int, typer.Option(help="HTTP port that `reentry serve` will use.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="gRPC port that `reentry serve` will use.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Metrics port that `reentry serve` will use.")] = 8002,
    instances: Annotated[
        int | None, typer.Option(help="Number of instances of the network.  [default: one per core]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Number of threads of each instance.  [default: 1]")] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Check only whether this folder or s3://BUCKET/PREFIX can hold a lake: a race of 8 writers."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether this machine can serve, and print a fix for each problem.

    The check "start" starts the server on free ports and stops it again. The last check is whether `reentry perf` can
    run perf_analyzer; its problems are warnings. The exit status is 1 if a check fails.

    Example: `reentry doctor --json`
    """
    if store is not None:
        from pipeline.lake.race import race

        result = race(store)
        typer.echo(json.dumps(asdict(result) | {"passed": result.passed}) if as_json else result.summary())
        raise typer.Exit(code=0 if result.passed else 1)

    from perf.analyzer.installation import check_analyzer
    from reentry.serving.config import ServerConfig
    from reentry.serving.doctor import examine

    checks = examine(
        ServerConfig(
            model_repository=repository,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            instances=instances,
            threads=threads,
        )
    )
    checks.append(check_analyzer())
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print_table(checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(code=1)


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "", Column("found", overflow="fold"), "fix")
    for check in checks:
        table.add_row(check.name, Text(check.status, style=colours[check.status]), Text(check.found), Text(check.fix))
    Console().print(table)
