"""The commands `reentry gateway ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.gateway_keys import accounts, keys
from cli.options import GatewayConfigFile

if TYPE_CHECKING:
    from gateway.jobs.process import Working
    from gateway.process import Started

gateway = typer.Typer(
    no_args_is_help=True,
    help="Serve Triton to accounts: keys, limits, jobs, an inference log and a live page.",
    epilog="Example: `reentry gateway serve`",
)

gateway.add_typer(accounts, name="accounts")
gateway.add_typer(keys, name="keys")


@gateway.command()
def serve(
    config: GatewayConfigFile = None,
    triton: Annotated[str | None, typer.Option(help="Address of Triton.  [default: http://127.0.0.1:8000]")] = None,
    address: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free port.  [default: 8080]")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the Prometheus metrics; 0 takes a free port.  [default: 8081]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the database and the files.  [default: artifacts/gateway]")
    ] = None,
) -> None:
    """Serve the gateway in front of a Triton server until Ctrl-C.

    Without further settings it needs no other server: the database is SQLite, and limits, cache and one worker of jobs
    are inside the process. The first start prints a key for everything, once. All settings are in docs/gateway.md;
    each one is also an environment variable such as REENTRY_GATEWAY_DATABASE_URL.

    Example: `reentry gateway serve`
    """
    from gateway.process import serve as serve_gateway
    from gateway.settings import read_gateway_settings

    settings = read_gateway_settings(
        config, triton_url=triton, address=address, port=port, metrics_port=metrics_port, data=data
    )
    serve_gateway(settings, _announce)
    typer.echo("stopped")


def _announce(started: Started) -> None:
    if started.first_key is not None:
        typer.echo(f"key      {started.first_key}   (shown once; store it)")
    typer.echo(f"gateway  {started.url}")
    typer.echo(f"metrics  {started.metrics_url}")
    typer.echo("ready; press Ctrl-C to stop")


@gateway.command()
def work(
    config: GatewayConfigFile = None,
    triton: Annotated[str | None, typer.Option(help="Address of Triton.  [default: http://127.0.0.1:8000]")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of jobs at a time.")] = 1,
    address: Annotated[str | None, typer.Option(help="Address of the metrics.  [default: 127.0.0.1]")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the metrics and of /health/live; 0 takes a free port.  [default: 8081]")
    ] = None,
) -> None:
    """Work on jobs and deliver webhooks until Ctrl-C or SIGTERM; then give the jobs in hand back.

    It is the worker of a gateway with PostgreSQL, on as many machines as needed. Their files are in the same folder or
    object store as those of the gateway: REENTRY_GATEWAY_STORE.

    Example: `reentry gateway work --config gateway.toml`
    """
    from gateway.jobs.process import work as work_on_jobs
    from gateway.settings import read_gateway_settings

    settings = read_gateway_settings(config, triton_url=triton, address=address, metrics_port=metrics_port)
    work_on_jobs(settings, workers, _announce_work)
    typer.echo("stopped")


def _announce_work(working: Working) -> None:
    typer.echo(f"workers  {working.workers}")
    typer.echo(f"metrics  {working.metrics_url}/metrics")
    typer.echo("ready; press Ctrl-C to stop")


@gateway.command()
def openapi(
    page: Annotated[bool, typer.Option("--page", help="Print the reference page in Markdown instead of JSON.")] = False,
) -> None:
    """Print the OpenAPI document of the gateway.

    Example: `reentry gateway openapi > openapi.json`
    """
    import json

    from gateway.openapi import reference
    from gateway.openapi_file import default_document

    text = default_document()
    typer.echo(reference(json.loads(text)) if page else text, nl=False)


@gateway.command()
def migrate(config: GatewayConfigFile = None) -> None:
    """Bring the tables of the database up to date.

    Example: `reentry gateway migrate --config gateway.toml`
    """
    from gateway.database.migrate import migrate as migrate_tables
    from gateway.settings import read_gateway_settings

    migrate_tables(read_gateway_settings(config))
    typer.echo("the tables are up to date")
