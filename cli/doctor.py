"""`reentry doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reentry.serving.doctor import Check


def doctor(
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path("model_repository"),
    http_port: Annotated[int, typer.Option(help="As `reentry serve` will be given; so the others.")] = 8000,
    grpc_port: Annotated[int, typer.Option()] = 8001,
    metrics_port: Annotated[int, typer.Option()] = 8002,
    instances: Annotated[int | None, typer.Option(help="Instances of the network.  [default: one a core]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each instance.  [default: 1]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Check whether this machine can serve: what was found, and the fix for what is wrong.

    The last check starts the server, on free ports, and stops it. Exit status 1 if a check fails.

    Example: `reentry doctor --json`
    """
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
    _print_json(checks) if as_json else _print_table(checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(code=1)


def _print_json(checks: list[Check]) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps([asdict(check) for check in checks], indent=2))


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "", Column("found", overflow="fold"), "fix")
    for check in checks:
        table.add_row(check.name, Text(check.status, style=colours[check.status]), Text(check.found), Text(check.fix))
    Console().print(table)
