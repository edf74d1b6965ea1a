"""The command `reentry serve`."""

from __future__ import annotations

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_REPOSITORY, RepositoryFolder

if TYPE_CHECKING:
    from reentry.errors import ServerError
    from reentry.serving import EmbeddedServer


_log = logging.getLogger(__name__)


class ModelControlMode(StrEnum):
    """Model control modes of Triton: who loads and unloads the models."""

    EXPLICIT = "explicit"
    NONE = "none"
    POLL = "poll"


def serve(
    repository: RepositoryFolder = Path(DEFAULT_REPOSITORY),
    http_port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free port.")] = 8000,
    grpc_port: Annotated[
        int, typer.Option(help="gRPC port, which `reentry predict` uses; 0 takes a free port.")
    ] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of the Prometheus metrics; 0 takes a free port.")] = 8002,
    address: Annotated[
        str,
        typer.Option(
            envvar="REENTRY_ADDRESS",
            help="Address to listen on; 0.0.0.0 in a container whose network policy limits the clients.",
        ),
    ] = "127.0.0.1",
    instances: Annotated[
        int | None,
        typer.Option(envvar="REENTRY_INSTANCES", help="Number of instances of the network.  [default: one per core]"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="REENTRY_THREADS",
            help="Number of threads of each instance. Idle threads sleep here; in the official container they spin, so "
            "that more than 1 can slow it down.  [default: 1]",
        ),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            envvar="REENTRY_TUNED",
            help="File tuned.toml of `reentry perf tune`: settings of the models for this machine, in place of "
            "--instances and --threads. The model repository stays unchanged.",
            metavar="FILE",
        ),
    ] = None,
    drain_timeout: Annotated[
        float,
        typer.Option(envvar="REENTRY_DRAIN_TIMEOUT", help="Seconds for the requests in flight to finish at shutdown."),
    ] = 10.0,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            envvar="REENTRY_MEMORY_LIMIT",
            help="Memory that each process may use for requests, MB.  [default: half of the memory, at most 2048]",
            metavar="MB",
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str,
        typer.Option(
            envvar="REENTRY_OTLP_ENDPOINT",
            help="Address of an OpenTelemetry collector, such as http://127.0.0.1:4318, that gets the traces of the "
            "requests with a `traceparent`.",
            metavar="URL",
            show_default=False,
        ),
    ] = "",
    restart: Annotated[
        bool, typer.Option("--restart", help="Restart the server after a crash, at most five times in a row.")
    ] = False,
    model_control_mode: Annotated[
        ModelControlMode,
        typer.Option(help="Triton's model control mode; `none` and `poll` use the configuration files unchanged."),
    ] = ModelControlMode.EXPLICIT,
    log_dir: Annotated[
        str, typer.Option(help="Folder of server.log and predictions.jsonl; `-` writes both to standard error.")
    ] = "artifacts/serve",
) -> None:
    """Serve the model repository with a Triton server on this machine until Ctrl-C.

    The server listens on the loopback address unless `--address` is given, because this Triton release lacks the
    security fixes of 2025. After Ctrl-C, SIGTERM or the closing of the terminal it finishes the requests in flight.

    Changes to the running server require its control key: REENTRY_CONTROL_KEY, or a random key that
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
        tuned=tuned,
        model_control_mode=model_control_mode.value,
        log_directory=None if log_dir == "-" else Path(log_dir),
        log_to_stderr=log_dir == "-",
        drain_timeout=drain_timeout,
        memory_limit=memory_limit,
        otlp_endpoint=otlp_endpoint,
        control_key=os.environ.get("REENTRY_CONTROL_KEY", ""),
    )
    if config.exposed:
        _log.warning(
            f"the server listens on {address}, and this Triton release lacks the security fixes of 2025; "
            "limit access to known clients with a firewall or a network policy"
        )
    serve_until_ended(config, _announce, _announce_restart if restart else None)
    typer.echo("stopped")


def _announce(server: EmbeddedServer) -> None:
    typer.echo(f"serving  {', '.join(server.models)}")
    typer.echo(f"gRPC     grpc://{server.grpc_url}")
    typer.echo(f"HTTP     http://{server.http_url}")
    typer.echo(f"metrics  {server.metrics_url}")
    typer.echo(f"logs     {server.log_place}")
    typer.echo("ready; press Ctrl-C to stop")


def _announce_restart(error: ServerError, pause: float) -> None:
    _log.warning(f"{error.problem}; restarting in {pause:g} s")
