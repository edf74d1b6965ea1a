"""`reentry serve`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
    instances: Annotated[int | None, typer.Option(help="Instances of the network.  [default: one a core]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each instance.  [default: 1]")] = None,
    model_control_mode: Annotated[
        ModelControlMode, typer.Option(help="`none` and `poll` take the configuration files as they are.")
    ] = ModelControlMode.EXPLICIT,
    log_dir: Annotated[Path, typer.Option(help="Folder of server.log and predictions.jsonl.")] = Path(
        "artifacts/serve"
    ),
) -> None:
    """Serve the model repository by a Triton server on this machine, until Ctrl-C.

    It listens on loopback alone. Ctrl-C or SIGTERM lets the requests in flight finish.

    Example: `reentry serve --repository model_repository --instances 2`
    """
    from reentry.serving.config import ServerConfig
    from reentry.serving.foreground import serve_until_ended

    config = ServerConfig(
        model_repository=repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        instances=instances,
        threads=threads,
        model_control_mode=model_control_mode.value,
        log_directory=log_dir,
    )
    serve_until_ended(config, _announce)
    typer.echo("stopped")


def _announce(server: EmbeddedServer) -> None:
    typer.echo(f"serving  {', '.join(server.models)}")
    typer.echo(f"gRPC     grpc://{server.grpc_url}")
    typer.echo(f"HTTP     http://{server.http_url}")
    typer.echo(f"metrics  {server.metrics_url}")
    typer.echo(f"logs     {server.server_log}, {server.prediction_log}")
    typer.echo("ready; Ctrl-C ends it")
