"""Measurement of live tracks on a running server or on an embedded one."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from client.connection import Endpoint, ServerUnavailableError
from client.stream.grpc_connection import GrpcConnection
from perf.machine import machine
from perf.stream.agreement import compare
from perf.stream.config import StreamConfig
from perf.stream.monitor import Monitor
from perf.stream.replay import Record, Replay
from perf.stream.results import Figures, StreamReport
from perf.stream.traffic import Traffic
from reentry import __version__
from reentry.errors import ConfigError
from reentry.runtime.revision import git_revision
from reentry.serving import EmbeddedServer, ServerConfig

_NICE: Final = 10
"""Nice value of an embedded server, so that it does not keep the generator on the same cores from sending in time."""

_log = logging.getLogger(__name__)


def measure_stream(config: StreamConfig, *, url: str | None = None, repository: Path) -> StreamReport:
    """Replay live tracks through a server.

    Args:
        config: settings.
        url: gRPC URL of a running server; None to start an embedded one.
        repository: model repository of the embedded server.

    Raises:
        ConfigError: the URL is not of gRPC.
        ServerError: the embedded server does not start.
        ClientError: the server is unreachable, refuses to start the tracks, or leaves requests unanswered.
    """
    traffic = Traffic(config)
    with _server(url, repository) as (address, process):
        monitor = Monitor(process)
        record = asyncio.run(_replay(config, traffic, address, monitor))
        agreement = compare(address, traffic, record.samples)
    versions = {"reentry": __version__}
    if url is None:
        versions["onnxruntime"] = importlib.metadata.version("onnxruntime")
    return StreamReport(
        config=config,
        server=url or "embedded",
        machine=machine(),
        versions=versions,
        git_revision=git_revision(),
        figures=Figures.of(config, record),
        agreement=agreement,
        client_cpu=monitor.client_cpu,
        server_cpu=monitor.server_cpu,
        memory=monitor.memory,
    )


async def _replay(config: StreamConfig, traffic: Traffic, address: str, monitor: Monitor) -> Record:
    connections: list[GrpcConnection] = []
    try:
        while len(connections) < config.feeds:
            connections.append(await GrpcConnection.open(address))
        _log.info(f"starting {config.sequences:,} sequences, then {config.duration:g} s of load")
        return await Replay(config, traffic, connections).run(monitor)
    except OSError as error:
        raise ServerUnavailableError(str(error), where=address) from error
    finally:
        for connection in connections:
            connection.close()


@contextmanager
def _server(url: str | None, repository: Path) -> Iterator[tuple[str, int | None]]:
    """Yield the gRPC address of a running server, or that of an embedded one and its process id."""
    if url is not None:
        endpoint = Endpoint.parse(url)
        if endpoint.scheme != "grpc":
            raise ConfigError("not a gRPC URL", expected="grpc://HOST:PORT", got=url)
        yield endpoint.address, None
        return
    settings = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedServer(settings) as server:
        os.setpriority(os.PRIO_PGRP, server.process_id, _NICE)
        yield server.grpc_url, server.process_id
