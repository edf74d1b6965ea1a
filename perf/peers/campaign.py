"""Measurement of all servers in turns: in each round every server is started, checked, measured and stopped once.

Only one server runs at a time, so that none of them uses the cores or the memory of another. All of them share the
cores with the load generator.
"""

from __future__ import annotations

import logging
import platform
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from export.sessions import TrackSession
from perf.machine import machine
from perf.peers.agreement import require_agreement
from perf.peers.apps.track_bytes import Array
from perf.peers.contestants import ROOT, Contestant, Launch, contestants
from perf.peers.environments import Environment, environment
from perf.peers.process_tree import tree_cpu_seconds, tree_memory
from perf.peers.protocols import ask
from perf.peers.results import Comparison, PeerResult, PeersConfig, Turn
from perf.peers.server_process import ServerProcess
from perf.peers.wrk import find_wrk, run_wrk, write_requests, wrk_version
from perf.processor import machine_cpu_seconds
from perf.scoring import draw_flights
from reentry import __version__
from reentry.errors import ClientError, ConfigError, ReentryError, ServerError
from reentry.runtime.arguments import require_file
from reentry.runtime.cores import cores
from reentry.runtime.revision import git_revision
from reentry.schema import REENTRY_LSTM, TRACK_GRAPH
from reentry.serving.repository import models_of, served_versions

_TIMEOUT: Final = 10.0
"""Seconds for one answer outside of the load."""
_FREE_PORTS: Final = 3
"""Number of successive free ports that a server gets."""

_log = logging.getLogger(__name__)


def compare(config: PeersConfig) -> Comparison:
    """Measure the servers of `config`.

    A server that cannot be installed, does not start, gives other answers than the graph, or fails a request under load
    is a result with the reason, and the others are measured all the same.

    Raises:
        ConfigError: a name in `config.only` is unknown.
        ReentryError: wrk, the exported version or the checkpoint is missing.
    """
    chosen, revision = _chosen(config.only), git_revision()
    find_wrk()
    models_of(config.repository)
    model = served_model(config.repository)
    require_file(config.checkpoint, fix="make run, or set --checkpoint")
    tracks = [track.measurements for track in draw_flights(config.tracks, config.steps)]
    session = TrackSession(model)
    answers = [session.run(track[None], np.array([len(track)])) for track in tracks]
    results = [_prepared(contestant, config) for contestant in chosen]
    for number in range(config.rounds):
        for index, contestant in enumerate(chosen):
            if results[index].failure is None:
                _log.info(f"round {number + 1} of {config.rounds}: {contestant.name}")
                results[index] = _with_turn(results[index], contestant, config, model, tracks, answers)
    return Comparison(
        config=config,
        machine=machine(),
        versions={"reentry": __version__, "python": platform.python_version(), "wrk": wrk_version()},
        git_revision=revision,
        results=results,
    )


def served_model(repository: Path) -> Path:
    """Return the graph from measurements to onsets of the latest served version.

    Raises:
        ServerError: no version is installed, or it has no such graph.
    """
    version = served_versions(repository, REENTRY_LSTM.name)[-1]
    path = repository / REENTRY_LSTM.name / str(version) / TRACK_GRAPH.file
    if not path.is_file():
        raise ServerError(
            f"version {version} has no {TRACK_GRAPH.file}", where=str(path.parent), fix="reentry export CHECKPOINT"
        )
    return path


def measure_turn(
    contestant: Contestant, launch: Launch, config: PeersConfig, tracks: list[Array], answers: list[dict[str, Array]]
) -> Turn:
    """Start a server, check its answers, measure it and stop it.

    Args:
        contestant: the server.
        launch: how to start it.
        config: settings of the load.
        tracks: measurements (T, M) of each track.
        answers: answer of the graph for each track.

    Raises:
        ReentryError: the server does not start, gives other answers, or fails a request.
    """
    protocol, port = contestant.protocol, launch.port
    url = f"http://127.0.0.1:{port}{protocol.path}"
    environment = launch.environment | contestant.variables(launch)
    with (
        tempfile.TemporaryDirectory(prefix="reentry-peers-") as folder,
        ServerProcess(contestant.command(launch), environment, folder=ROOT) as server,
    ):
        start = server.first_answer(port, protocol, tracks[0])
        write_requests(Path(folder), [protocol.request(track) for track in tracks])
        run_wrk(url, Path(folder), len(tracks), connections=config.connections, seconds=config.warm_up)
        for track, expected in zip(tracks, answers, strict=True):
            try:
                got = ask(port, protocol, track, timeout=_TIMEOUT)
            except OSError as error:
                raise ClientError(f"no answer: {error}", got=server.last_messages()) from error
            require_agreement(expected, got)
        before, all_before = tree_cpu_seconds(server.process_id), machine_cpu_seconds()
        figures = run_wrk(url, Path(folder), len(tracks), connections=config.connections, seconds=config.seconds)
        spent, all_spent = tree_cpu_seconds(server.process_id) - before, machine_cpu_seconds() - all_before
        others = max(0.0, all_spent - spent - figures.cpu_seconds)
        return Turn(
            tracks_per_second=figures.per_second,
            p50=figures.p50,
            p99=figures.p99,
            cpu=spent / figures.requests * 1e3,
            memory=tree_memory(server.process_id) / 1e6,
            start=start,
            others=100.0 * others / (figures.seconds * cores()),
        )


def free_port() -> int:
    """Return a free port, which is followed by `_FREE_PORTS` - 1 further free ones."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if all(_is_free(port + offset) for offset in range(1, _FREE_PORTS)):
                return port


def _chosen(names: tuple[str, ...]) -> list[Contestant]:
    known = {contestant.name: contestant for contestant in contestants()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown server {unknown[0]!r}", expected=" or ".join(map(repr, known)))
    return [known[name] for name in names] if names else list(known.values())


def _prepared(contestant: Contestant, config: PeersConfig) -> PeerResult:
    result = PeerResult(
        name=contestant.name,
        body=contestant.protocol.body,
        settings=contestant.settings.format(workers=config.workers),
        versions={},
        shown=contestant.packages,
        command=(),
        install_size=None,
        turns=(),
    )
    try:
        built = _environment(contestant, config)
    except ReentryError as error:
        return _failed(result, error)
    return replace(result, versions=built.versions(), install_size=built.size() / 1e6)


def _with_turn(
    result: PeerResult,
    contestant: Contestant,
    config: PeersConfig,
    model: Path,
    tracks: list[Array],
    answers: list[dict[str, Array]],
) -> PeerResult:
    with tempfile.TemporaryDirectory(prefix="reentry-peer-") as folder:
        launch = Launch(
            bin=_environment(contestant, config).bin,
            port=free_port(),
            workers=config.workers,
            repository=config.repository,
            model=model,
            checkpoint=config.checkpoint,
            folder=Path(folder),
        )
        result = replace(result, command=tuple(contestant.command(launch)))
        try:
            turn = measure_turn(contestant, launch, config, tracks, answers)
        except ReentryError as error:
            return _failed(result, error)
    return replace(result, turns=(*result.turns, turn))


def _environment(contestant: Contestant, config: PeersConfig) -> Environment:
    return environment(contestant.requirements, config.environments, torch=contestant.torch)


def _failed(result: PeerResult, error: ReentryError) -> PeerResult:
    _log.warning(f"{result.name}: {error}")
    return replace(result, failure=str(error))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
