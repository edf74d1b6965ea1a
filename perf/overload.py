"""Overload of a server: its capacity in a closed loop, and then an open loop at a multiple of it.

The latency of accepted requests must stay bounded, and refusals must be fast and clear. Latencies count from the time
at which a request was scheduled. A request that the generator sent late says nothing about the server, so only those
that were sent in time have a latency in the report, and the share of the late ones is given.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from perf.generator import CONNECTIONS, LATE, Record, closed_loop, open_loop, percentile
from perf.machine import machine
from perf.messages import Load, http_address, prepare
from perf.tables import table
from reentry import __version__
from reentry.errors import ClientError, ConfigError
from reentry.runtime.arguments import require_between
from reentry.runtime.files import whole_file
from reentry.runtime.revision import git_revision
from reentry.schema import LONGEST_TRACK, REENTRY_TRACK
from reentry.serving import EmbeddedServer, ServerConfig

GOAL: Final = 2.0
"""Largest p99 of accepted requests, as a multiple of the p99 at the highest throughput without overload."""
REPORTS: Final = ("overload.json", "overload.md")

_WARM_UP: Final = 1.0
"""Seconds of load before the first measurement."""
_DIFFERENT: Final = 8
"""Number of different tracks that are sent in turn."""
_LATE_SHARE: Final = 0.01
"""Share of late requests from which the figures of an open loop cannot be relied on."""
_NICE: Final = 10
"""Nice value of an embedded server, so that it does not keep the generator on the same cores from sending in time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadConfig:
    """Settings of a measurement."""

    model: str = REENTRY_TRACK.name
    """Name of the model."""
    steps: int = 900
    """Number of steps of each track; a request has one track."""
    clients: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Numbers of clients in the closed loop; the highest throughput is the capacity."""
    factor: float = 2.0
    """Rate of the open loop as a multiple of the capacity."""
    seconds: float = 5.0
    """Duration of each part, s."""

    def __post_init__(self) -> None:
        require_between("steps", self.steps, 10, LONGEST_TRACK)
        if not self.clients:
            raise ConfigError("clients", expected="at least one number")
        for count in self.clients:
            require_between("clients", count, 1, 10_000)
        require_between("factor", self.factor, 0.01, 100.0)
        require_between("seconds", self.seconds, 0.1, 600.0, unit="s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Figures of one part: a number of clients, or a rate. Times are in ms; None if there is none."""

    load: str
    """The load in words."""
    offered: float | None
    """Requests per second that were offered; None for a closed loop, which waits for answers."""
    accepted: float
    """Answered requests per second."""
    p50: float | None
    """Median latency of the requests that were sent in time and answered."""
    p99: float | None
    longest: float | None
    refused: float
    """Share of the requests that the server refused."""
    refusal_p99: float | None
    """99th percentile of the time to a refusal, of the requests that were sent in time."""
    reasons: dict[str, int]
    """Number of refusals by the server's reason."""
    late: float
    """Share of the requests that were sent more than `perf.generator.LATE` ms after their time."""
    overrun: bool
    """Whether the part ended early, because `perf.generator.CONNECTIONS` requests were unanswered."""

    @classmethod
    def of(cls, load: str, record: Record, offered: float | None = None) -> Level:
        """Summarise the record of a part."""
        times = record.in_time
        return cls(
            load=load,
            offered=offered,
            accepted=record.per_second,
            p50=_figure(percentile(times, 50)),
            p99=_figure(percentile(times, 99)),
            longest=max(times, default=None),
            refused=record.refusals.total() / max(1, record.sent),
            refusal_p99=_figure(percentile(record.refusal_times, 99)),
            reasons=dict(record.refusals),
            late=record.late_share,
            overrun=record.overrun,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadReport:
    """Figures of a server below and above its capacity."""

    config: OverloadConfig
    server: str
    """URL of the server, or `embedded`."""
    machine: dict[str, Any]
    versions: dict[str, str]
    git_revision: str
    closed: list[Level]
    overload: Level

    @property
    def capacity(self) -> Level:
        """The part in the closed loop with the highest throughput."""
        return max(self.closed, key=lambda each: each.accepted)

    @property
    def ratio(self) -> float | None:
        """p99 of accepted requests in overload, divided by that at capacity; None if there is none to rely on."""
        if self.overload.p99 is None or not self.capacity.p99 or not self.reliable or self.overload.overrun:
            return None
        return self.overload.p99 / self.capacity.p99

    @property
    def reliable(self) -> bool:
        """Whether the generator sent almost all requests in time."""
        return self.overload.late <= _LATE_SHARE


def measure_overload(
    config: OverloadConfig, *, url: str | None = None, repository: Path, tuned: Path | None = None
) -> OverloadReport:
    """Measure the capacity of a server and its behaviour above it.

    Args:
        config: settings.
        url: HTTP URL of a running server; None to start an embedded one.
        repository: model repository of the embedded server.
        tuned: tuned settings of the embedded server, or None.

    Raises:
        ConfigError: the URL is not of HTTP, or the tuned settings are invalid.
        ServerError: the embedded server does not start.
        ClientError: the server is unreachable, or a request failed in another way than by a refusal.
    """
    with _address(url, repository, tuned) as address:
        load = prepare(address, config.model, steps=[config.steps] * _DIFFERENT)
        closed_loop(load, clients=config.clients[0], seconds=_WARM_UP)
        closed = [_closed(load, clients, config) for clients in config.clients]
        rate = config.factor * max(each.accepted for each in closed)
        if rate <= 0.0:
            raise ClientError("no request was answered", where=address)
        _log.info(f"open loop, {rate:,.0f} requests/s for {config.seconds:g} s")
        record = open_loop(load, rate=rate, seconds=config.seconds)
    return OverloadReport(
        config=config,
        server=url or "embedded",
        machine=machine(),
        versions={"reentry": __version__},
        git_revision=git_revision(),
        closed=closed,
        overload=Level.of(f"open loop, {config.factor:g} x capacity", record, rate),
    )


def write_reports(report: OverloadReport, out: Path) -> list[Path]:
    """Write overload.json and overload.md into `out` and return their paths."""
    texts = dict(zip(REPORTS, (json.dumps(as_dict(report), indent=2) + "\n", markdown(report)), strict=True))
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def as_dict(report: OverloadReport) -> dict[str, Any]:
    """Return the report as JSON content; all times are in ms."""
    content = asdict(report) | {"capacity": report.capacity.accepted}
    return content | {"p99_ratio": report.ratio, "reliable": report.reliable}


def markdown(report: OverloadReport) -> str:
    """Return the report in Markdown."""
    overload, host = report.overload, report.machine
    titles = ("load", "offered/s", "accepted/s", "p50 ms", "p99 ms", "max ms", "refused", "refusal p99 ms", "late")
    if overload.overrun:
        share = f"not bounded, the run was ended with {CONNECTIONS} requests unanswered"
    else:
        share = "unknown" if report.ratio is None else f"{report.ratio:.1f} times that at capacity"
    lines = [
        f"# Overload of {report.config.model}",
        "",
        f"**{overload.accepted:,.0f} of {overload.offered:,.0f} requests/s accepted; p99 of accepted requests: {share} "
        f"(goal: at most {GOAL:g})**",
        "",
        f"- machine of the client: {host['processor']}, {host['cores']} cores, {host['memory_gib']} GiB",
        f"- server: {report.server}; reentry {report.versions['reentry']}; git revision {report.git_revision}",
        f"- single tracks of {report.config.steps} steps over HTTP, {report.config.seconds:g} s each",
        "",
        *table(titles, [_cells(each) for each in [*report.closed, overload]], words=1),
        "",
    ]
    lines += [f"Refused {count:,} times: {reason}" for reason, count in overload.reasons.items()]
    if not report.reliable:
        lines += [
            "",
            "**The figures of the open loop cannot be relied on: the generator sent "
            f"{overload.late:.0%} of the requests more than {LATE:g} ms late.** Run it on an idle machine, or on "
            "another one with --url.",
        ]
    return "\n".join(lines).rstrip() + "\n"


@contextmanager
def _address(url: str | None, repository: Path, tuned: Path | None) -> Iterator[str]:
    """Yield the HTTP address of the running server, or of an embedded one."""
    if url is not None:
        yield http_address(url)
        return
    config = ServerConfig(model_repository=repository, http_port=0, grpc_port=0, metrics_port=0, tuned=tuned)
    with EmbeddedServer(config) as server:
        os.setpriority(os.PRIO_PGRP, server.process_id, _NICE)
        yield server.http_url


def _closed(load: Load, clients: int, config: OverloadConfig) -> Level:
    _log.info(f"closed loop, {clients} clients for {config.seconds:g} s")
    return Level.of(f"closed loop, {clients} clients", closed_loop(load, clients=clients, seconds=config.seconds))


def _cells(level: Level) -> list[str]:
    times = ("-" if each is None else f"{each:.1f}" for each in (level.p50, level.p99, level.longest))
    refusal = "-" if level.refusal_p99 is None else f"{level.refusal_p99:.1f}"
    offered = "-" if level.offered is None else f"{level.offered:,.0f}"
    late = "-" if level.offered is None else f"{level.late:.1%}"
    return [level.load, offered, f"{level.accepted:,.0f}", *times, f"{level.refused:.1%}", refusal, late]


def _figure(value: float) -> float | None:
    return None if math.isnan(value) else value
