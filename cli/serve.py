"""`reentry serve`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reentry.errors import ServerError
    from reentry.serving import EmbeddedServer


class ModelControlMode(StrEnum):
    """Triton's words for who loads the models."""

    EXPLICIT = "explicit"
    NONE = "none"
    POLL = "poll"


def serve(
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path("model_repository"),
    http_port: Annotated[int, typer.Option(help="0 takes a free port; so do the other two.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Where `reentry predict` asks.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Where Prometheus reads.")] = 8002,
    address: Annotated[
        str, typer.Option(envvar="REENTRY_ADDRESS", help="0.0.0.0 in a container, behind a network policy.")
    ] = "127.0.0.1",
    instances: Annotated[
        int | None,
        typer.Option(envvar="REENTRY_INSTANCES", help="Instances of the network.  [default: one a core]"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="REENTRY_THREADS",
            help="Threads of each instance. Idle ones sleep here; those of the official container's onnxruntime "
            "backend spin, so more than 1 can slow it down.  [default: 1]",
        ),
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(envvar="REENTRY_DRAIN_TIMEOUT", help="s for the requests in flight at the end.")
    ] = 10.0,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            envvar="REENTRY_MEMORY_LIMIT",
            help="MB that each process may take for requests.  [default: half of the memory, at most 2048]",
            metavar="MB",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start the server again when it dies, at most five times in a row.")
    ] = False,
    model_control_mode: Annotated[
        ModelControlMode, typer.Option(help="`none` and `poll` take the configuration files as they are.")
    ] = ModelControlMode.EXPLICIT,
    log_dir: Annotated[
        str, typer.Option(help="Folder of server.log and predictions.jsonl; `-`: both to standard error.")
    ] = "artifacts/serve",
) -> None:
    """Serve the model repository by a Triton server on this machine, until Ctrl-C.

    It listens on loopback alone unless `--address` says otherwise: the server inside is older than the security fixes
    of 2025. Ctrl-C, SIGTERM or a closed terminal lets the requests in flight finish.

    Changes to the running server require its control key: REENTRY_CONTROL_KEY, or a random one that
    `reentry repository --url` finds on the same machine.

    Example: `reentry serve --repository model_repository --instances 2`
    """
    from reentry.serving.config import ServerConfig
    from reentry.serving.foreground import serve_until_ended

    config = ServerConfig(
        model_repository=repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        address=address,
        instances=instances,
        threads=threads,
        model_control_mode=model_control_mode.value,
        log_directory=None if log_dir == "-" else Path(log_dir),
        log_to_stderr=log_dir == "-",
        drain_timeout=drain_timeout,
        memory_limit=memory_limit,
        control_key=os.environ.get("REENTRY_CONTROL_KEY", ""),
    )
    if config.exposed:
        typer.echo(
            f"warning: listens on {address} with a Triton older than the security fixes of 2025; "
            "see that a firewall or a network policy lets in known clients alone",
            err=True,
        )
    serve_until_ended(config, _announce, _announce_restart if restart else None)
    typer.echo("stopped")


def _announce(server: EmbeddedServer) -> None:
    typer.echo(f"serving  {', '.join(server.models)}")
    typer.echo(f"gRPC     grpc://{server.grpc_url}")
    typer.echo(f"HTTP     http://{server.http_url}")
    typer.echo(f"metrics  {server.metrics_url}")
    typer.echo(f"logs     {server.log_place}")
    typer.echo("ready; Ctrl-C ends it")


def _announce_restart(error: ServerError, pause: float) -> None:
    typer.echo(f"warning: {error.problem}; restarting in {pause:g} s", err=True)
