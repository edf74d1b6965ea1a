"""Measurement of all workloads of a configuration, on a running server or on an embedded one."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from client.connection import Connection, Endpoint
from perf.analyzer.ceiling import WINDOWS, CeilingMeasurement
from perf.analyzer.config import CONCURRENCY, GRPC, HTTP, SHARED_MEMORY, PerfConfig, Workload
from perf.analyzer.inputs import INPUTS, LIVE_INPUTS, write_inputs
from perf.analyzer.installation import Analyzer, find_analyzer
from perf.analyzer.measure import Measuring
from perf.analyzer.production import find_production
from perf.analyzer.results import Highest, Report, WorkloadResult
from perf.analyzer.slo import Objective, highest_level
from perf.machine import machine
from reentry import __version__
from reentry.errors import ClientError, ConfigError
from reentry.runtime.cores import cores
from reentry.runtime.revision import git_revision
from reentry.serving import EmbeddedServer, ServerConfig

_TIMEOUT: Final = 10.0
"""Seconds for an answer about the server or a model."""

_log = logging.getLogger(__name__)


def run_perf(
    config: PerfConfig, *, urls: Sequence[str] = (), repository: Path | None = None, objective: Objective | None = None
) -> Report:
    """Measure all workloads of `config`, or search the highest level of each scenario that holds an objective.

    The ceiling is measured before and after, while no client uses the server.

    Args:
        config: settings.
        urls: addresses of a running server, one for each protocol; empty to start an embedded server.
        repository: model repository of the server. With `urls`, None if it is not on this machine, so that there is
            no ceiling.
        objective: latency limit; None to measure all workloads.

    Raises:
        ReentryError: perf_analyzer or a part of the server is missing.
        ConfigError: a URL is invalid, or the URL of a protocol or the repository is missing.
        ServerError: the repository is invalid.
        RepositoryError: a graph of the repository does not run in this process.
        ClientError: the server is unreachable, does not serve a model, or perf_analyzer failed.
    """
    if repository is None and not urls:
        raise ConfigError("no server to measure", expected="a model repository, or the URL of a server")
    addresses = _addresses(config, [Endpoint.parse(url) for url in urls]) if urls else {}
    analyzer = find_analyzer()
    ceiling = CeilingMeasurement(config, find_production(config, repository))
    with ExitStack() as stack:
        if repository is not None and not urls:
            addresses = stack.enter_context(embedded_server(config, repository))
        measuring, version = stack.enter_context(prepared(config, analyzer, addresses))
        ceiling.measure()
        results, highest = _search(measuring, objective) if objective else (_sweep(measuring), [])
    for _ in range(WINDOWS - 1):
        ceiling.measure()
    return Report(
        config=config,
        urls=tuple(urls),
        objective=None if objective is None else str(objective),
        machine=machine(),
        versions=versions(analyzer, version, embedded=not urls),
        git_revision=git_revision(),
        results=results,
        highest=highest,
        ceiling=ceiling.ceiling(remote=bool(urls)),
    )


@contextmanager
def embedded_server(config: PerfConfig, repository: Path, *, tuned: Path | None = None) -> Iterator[dict[str, str]]:
    """Run an embedded server, and yield its addresses by protocol.

    Args:
        config: settings of the measurement.
        repository: model repository of the server, which stays unchanged.
        tuned: tuned settings for the server; None for those of `reentry serve`.

    Raises:
        ServerError: the server does not start. An exit while a client uses it is raised in place of the client's error.
    """
    settings = ServerConfig(
        model_repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        tuned=tuned,
        open_shared_memory=SHARED_MEMORY in config.protocols,
        drain_timeout=0.1,  # no client uses the server any more
    )
    with EmbeddedServer(settings) as server:
        _log.info(f"embedded server with {', '.join(server.models)}; it shares {cores()} cores with the client")
        try:
            yield {GRPC: server.grpc_url, SHARED_MEMORY: server.grpc_url, HTTP: server.http_url}
        except ClientError:
            if server.ended:
                server.wait()
            raise


@contextmanager
def prepared(config: PerfConfig, analyzer: Analyzer, addresses: Mapping[str, str]) -> Iterator[tuple[Measuring, str]]:
    """Write the input files for the models of a server, and yield what measures them and the server's version.

    Raises:
        ClientError: the server is unreachable, or a model cannot be measured.
    """
    scheme = HTTP if config.protocols[0] == HTTP else GRPC
    endpoint = Endpoint(scheme=scheme, address=addresses[config.protocols[0]])
    version, inputs = asyncio.run(_served(endpoint, config.models))
    with tempfile.TemporaryDirectory(prefix="reentry-perf-") as folder:
        files = _input_files(config, inputs, Path(folder))
        yield Measuring(analyzer=analyzer, config=config, addresses=addresses, inputs=files), version


def _addresses(config: PerfConfig, endpoints: Sequence[Endpoint]) -> dict[str, str]:
    found = {endpoint.scheme: endpoint.address for endpoint in endpoints}
    if len(found) < len(endpoints):
        raise ConfigError("two URLs of one protocol", expected="one URL each for grpc and http")
    if GRPC in found:
        found[SHARED_MEMORY] = found[GRPC]
    missing = [protocol for protocol in config.protocols if protocol not in found]
    if missing:
        scheme = HTTP if missing[0] == HTTP else GRPC
        raise ConfigError(
            f"no URL for the protocol {missing[0]}",
            expected=f"{scheme}://HOST:PORT",
            got=", ".join(map(str, endpoints)),
            fix="repeat --url, or change protocols in the table [perf] of --config",
        )
    return found


async def _served(endpoint: Endpoint, models: Sequence[str]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the version of the server, and the names of the inputs of each model."""
    async with Connection(endpoint, timeout=_TIMEOUT) as connection:
        version = await connection.server_version()
        inputs = {model: await connection.input_names(model) for model in models}
    for model, names in inputs.items():
        if not set(names) <= set(INPUTS) and names != LIVE_INPUTS:
            raise ClientError(
                f"the model {model} cannot be measured",
                where=str(endpoint),
                expected=f"inputs among {', '.join(INPUTS)}, or {', '.join(LIVE_INPUTS)} alone",
                got=", ".join(names),
            )
    return version, inputs


def _input_files(
    config: PerfConfig, inputs: Mapping[str, Sequence[str]], folder: Path
) -> dict[tuple[str, int, str], Path]:
    files: dict[tuple[str, int, str], Path] = {}
    for scenario in config.scenarios():
        model, batch, length = key = scenario["model"], scenario["batch"], scenario["length"]
        if key not in files:
            files[key] = folder / f"{len(files)}.json"
            write_inputs(files[key], inputs=inputs[model], batch=batch, length=length, seed=config.seed)
    return files


def _sweep(measuring: Measuring) -> list[WorkloadResult]:
    workloads = list(measuring.config.workloads())
    return [
        _measured(measuring, workload, f"{number} of {len(workloads)}")
        for number, workload in enumerate(workloads, start=1)
    ]


def _search(measuring: Measuring, objective: Objective) -> tuple[list[WorkloadResult], list[Highest]]:
    results: list[WorkloadResult] = []
    highest: list[Highest] = []
    for scenario in measuring.config.scenarios():

        def holds(level: float, scenario: dict[str, Any] = scenario) -> bool:
            results.append(_measured(measuring, Workload(**scenario, level=level), "search"))
            return objective.held_by(results[-1])

        levels, whole = measuring.config.levels(scenario["load"]), scenario["load"] == CONCURRENCY
        found = highest_level(levels, holds, whole=whole)
        highest.append(Highest(**scenario, level=found, at_limit=found == max(levels)))
    return results, highest


def _measured(measuring: Measuring, workload: Workload, position: str) -> WorkloadResult:
    result = measuring.measure(workload)
    if result.figures is not None:
        figures = result.figures
        _log.info(
            f"{position}: {workload}: {figures.tracks_per_second:,.0f} tracks/s, p99 {figures.p99:.1f} ms, "
            f"{result.status}"
        )
    return result


def versions(analyzer: Analyzer, server: str, *, embedded: bool) -> dict[str, str]:
    """Return the versions by program. The onnxruntime of a remote server is unknown."""
    runtime = importlib.metadata.version("onnxruntime") if embedded else "unknown"
    return {"reentry": __version__, "server": server, "perf_analyzer": analyzer.version(), "onnxruntime": runtime}
