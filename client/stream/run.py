"""The run of `reentry stream`: reads a source, sends it as live feeds, and writes the alerts."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, TextIO

import numpy as np
import numpy.typing as npt

from client.stream.alert import Alert, Refinement
from client.stream.event_file import EventFile
from client.stream.feed import Feed, FeedConfig, check_name
from client.stream.gateway import GatewayPoster, check_gateway
from client.stream.metrics import serving_metrics
from client.stream.pace import Pace
from client.stream.servers import grpc_endpoints
from client.stream.source import TIME, JsonLines, Scan, file_scans, split
from client.stream.statistics import percentiles
from reentry.runtime.arguments import require_between
from reentry.runtime.files import writing
from reentry.runtime.signals import ended_by_signals, run_until_ended
from reentry.tracks import ReadReport, read_tracks

STANDARD: Final = "-"
"""Name of standard input and standard output."""

_SCANS_AHEAD: Final = 6
_MEASUREMENTS_AHEAD: Final = 512
"""Most scans, and in mode `tracks` most measurements, without an answer at the rate `max`. They keep the server busy,
and more would only wait longer."""
_BEHIND: Final = 1_000_000
"""Most measurements without an answer at another rate and from standard input, which do not wait for a lost server."""
_BETWEEN_LOOKS: Final = 0.25
"""Time between two looks of whoever shows the run, s."""
_ALERTS_SHOWN: Final = 10
"""Number of the latest alerts that are kept to be shown."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """Settings of one run."""

    source: str
    """File of tracks, or `-` for lines of JSON on standard input."""
    urls: tuple[str, ...] = ("grpc://127.0.0.1:8001",)
    """Addresses of the servers, grpc://HOST:PORT."""
    rate: float = 1.0
    """Seconds of the data in one second; infinite for no waiting."""
    interval: float = 0.5
    """Duration of a scan, s; 0 for scans of equal timestamps."""
    name: str | None = None
    """Name of the feed; None for the name of the file without suffix, or stdin."""
    feed_by: Literal["file", "sensor"] = "file"
    """Whether all measurements are one feed, or those of each sensor."""
    alerts: str = "artifacts/stream/alerts.jsonl"
    """File to which alerts and refinements are appended, or `-` for standard output."""
    metrics_port: int | None = None
    """Port of the metrics; None for no metrics."""
    gateway: str | None = None
    """Address of a gateway that shows the stream, http://HOST:PORT; None for no gateway."""
    gateway_key: str = field(default="", repr=False)
    """Key for it."""
    feed: FeedConfig = field(default_factory=FeedConfig)

    def __post_init__(self) -> None:
        grpc_endpoints(self.urls)
        check_name(self.feed_name)
        require_between("duration of a scan", self.interval, 0.0, 86_400, unit="s")
        if self.gateway is not None:
            check_gateway(self.gateway, self.gateway_key)
        if self.metrics_port is not None:
            require_between("metrics port", self.metrics_port, 0, 65_535)

    @property
    def feed_name(self) -> str:
        """Name of the feed, or the part that the names of all feeds have in common."""
        if self.name is not None:
            return self.name
        return "stdin" if self.source == STANDARD else Path(self.source).stem


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """Result of a run."""

    feeds: int
    tracks: int
    """Number of tracks; one that continued after a long silence counts again."""
    updates: int
    """Number of answered measurements."""
    rejected: dict[str, int]
    """Number of measurements that changed nothing, by reason."""
    alerts: int
    refinements: int
    """Number of refined onsets that were given after the alerts."""
    replays: dict[str, int]
    """Number of replayed tracks, by reason."""
    replayed_measurements: int
    truncated_replays: int
    bad_lines: int
    """Number of lines of standard input that are not measurements."""
    rows_set_aside: int
    """Number of rows of the file that were not sent."""
    model_version: int | None
    """Version of the network that gave the latest answer; None without an answer."""
    seconds: float
    update_latency_ms: tuple[float | None, float | None]
    """p50 and p99 of the recent answers, ms."""
    alert_latency_ms: tuple[float | None, float | None]
    """p50 and p99 of the recent alerts, ms."""
    alerts_file: str
    undelivered: int | None
    """Number of alerts and refinements that the gateway has not received; None without a gateway."""
    notes: str
    """Repairs made and rows set aside while reading the file, as text."""

    @property
    def is_complete(self) -> bool:
        """Whether every measurement of the source was scored, or rejected for its values or its time."""
        refused = self.rejected.get("refused", 0) + self.rejected.get("no_slot", 0)
        return not (self.bad_lines or self.rows_set_aside or refused)

    def to_json(self) -> str:
        """Return the summary as a JSON object."""
        return json.dumps(asdict(self))

    def summary(self) -> str:
        """Return the summary as lines of text."""
        rate = self.updates / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.updates:,} measurements of {self.tracks:,} tracks in {self.seconds:.1f} s ({rate:,.0f}/s)"
            + (f" by model version {self.model_version}" if self.model_version is not None else ""),
            f"{self.alerts:,} alerts"
            + (f" and {self.refinements:,} refinements" if self.refinements else "")
            + f": {self.alerts_file}",
            f"latency p50 {_ms(self.update_latency_ms[0])}, p99 {_ms(self.update_latency_ms[1])}",
            self.notes,
            _listed("rejected measurements", self.rejected),
            _listed("replayed tracks", self.replays),
            f"{self.truncated_replays:,} replays without the first measurements" if self.truncated_replays else "",
            f"{self.bad_lines:,} bad lines skipped" if self.bad_lines else "",
            f"{self.undelivered:,} alerts and refinements not delivered to the gateway" if self.undelivered else "",
        ]
        return "\n".join(line for line in lines if line)


def stream_with_server(
    config: StreamConfig, repository: Path | None, show: Callable[[StreamRun], None]
) -> StreamSummary:
    """Stream a source; if `repository` is given, start an embedded server of it for this run.

    Args:
        config: settings of the run.
        repository: model repository of the server to start; None to use the servers of the configuration.
        show: function that is called several times in a second to show the run.

    Raises:
        InputError: the source cannot be read, or the alerts cannot be written.
        ServerError: the server did not start.
        ClientError: no server answered within the patience.
        Ended: a signal ended the run; its sequences are ended and the alerts are kept.
    """
    with ended_by_signals():
        if repository is None:
            return _stream(config, show)
        from reentry.serving import EmbeddedServer, ServerConfig

        on_free_ports = ServerConfig(
            model_repository=repository, http_port=0, grpc_port=0, metrics_port=0, drain_timeout=0.1
        )
        with EmbeddedServer(on_free_ports) as server:
            return _stream(replace(config, urls=(f"grpc://{server.grpc_url}",)), show)


def _stream(config: StreamConfig, show: Callable[[StreamRun], None]) -> StreamSummary:
    with ExitStack() as stack:
        path = None if config.alerts == STANDARD else Path(config.alerts)
        if path is None and config.gateway is not None:  # alerts wait for the gateway in a file in any case
            path = Path(stack.enter_context(TemporaryDirectory(prefix="reentry-stream-"))) / "alerts.jsonl"
        write = stack.enter_context(_event_writer(path, is_printed=config.alerts == STANDARD))
        poster = None
        if path is not None and config.gateway is not None:
            events = EventFile(path, config.gateway)
            poster = GatewayPoster(config.gateway, config.gateway_key, config.feed_name, events)
        run = StreamRun(config, write, poster)
        file = lines = None
        if config.source == STANDARD:
            lines = JsonLines(sys.stdin.fileno())
            scans = lines.scans()
        else:
            file = stack.enter_context(read_tracks(Path(config.source)))
            scans = _as_async(file_scans(file, config.interval))
        port = stack.enter_context(serving_metrics(config.metrics_port, lambda: list(run.feeds.values())))
        if port is not None:
            _log.info("metrics: http://127.0.0.1:%d/metrics", port)
        run_until_ended(lambda: run.stream(scans, show))
        return run.summary(file.report if file else None, lines.bad if lines else 0)


class StreamRun:
    """A run in progress."""

    def __init__(
        self,
        config: StreamConfig,
        write: Callable[[Alert | Refinement], None],
        poster: GatewayPoster | None = None,
    ) -> None:
        self.config = config
        self.feeds: dict[str, Feed] = {}
        """Feeds by name."""
        self.begun = time.monotonic()
        self.seconds = 0.0
        """Duration so far, s."""
        self.alerts: list[Alert] = []
        """The latest alerts, the newest last."""
        self.refinements: dict[tuple[str, int], Refinement] = {}
        """The latest refinements of these alerts by feed and track."""
        self.undelivered: int | None = None
        """Number of alerts and refinements that the gateway has not received at the end; None without a gateway."""
        self._write = write
        self._poster = poster
        self._deliveries: set[asyncio.Task[None]] = set()
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._failed: asyncio.Future[None]
        self._most = _BEHIND
        self._most_scans = math.inf
        if math.isinf(config.rate) and config.source != STANDARD:
            self._most = _MEASUREMENTS_AHEAD if config.feed.mode == "tracks" else _BEHIND
            self._most_scans = math.inf if config.feed.mode == "tracks" else _SCANS_AHEAD

    async def stream(self, scans: AsyncIterator[Scan], show: Callable[[StreamRun], None]) -> None:
        """Send all scans and wait for their answers."""
        self.begun = time.monotonic()
        self._failed = asyncio.get_running_loop().create_future()
        tasks: list[asyncio.Future[None]] = [
            asyncio.ensure_future(self._pump(scans)),
            asyncio.ensure_future(self._show(show)),
            self._failed,
        ]
        posting = asyncio.ensure_future(self._poster.run()) if self._poster is not None else None
        is_answered = False
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self.seconds = time.monotonic() - self.begun
            is_answered = True
        finally:
            for task in (*tasks, *self._deliveries):
                task.cancel()
            await asyncio.gather(*tasks, *self._deliveries, return_exceptions=True)
            await asyncio.gather(*(feed.close(abandon=not is_answered) for feed in self.feeds.values()))
            if self._poster is not None and posting is not None:
                posting.cancel()
                await asyncio.gather(posting, return_exceptions=True)
                self.undelivered = await self._poster.finish()

    def summary(self, report: ReadReport | None, bad_lines: int) -> StreamSummary:
        """Return the result of the run."""
        every = [feed.statistics for feed in self.feeds.values()]
        rejected: Counter[str] = Counter()
        replays: Counter[str] = Counter()
        for each in every:
            rejected.update(each.rejected)
            replays.update(each.replays)
        versions = [feed.model_version for feed in self.feeds.values() if feed.model_version]
        return StreamSummary(
            feeds=len(self.feeds),
            tracks=sum(feed.tracks.begun for feed in self.feeds.values()),
            updates=sum(each.updates for each in every),
            rejected=dict(+rejected),
            alerts=sum(each.alerts for each in every),
            refinements=sum(each.refinements for each in every),
            replays=dict(replays),
            replayed_measurements=sum(each.replayed_measurements for each in every),
            truncated_replays=sum(each.truncated_replays for each in every),
            bad_lines=bad_lines,
            rows_set_aside=report.rows_set_aside if report else 0,
            model_version=versions[-1] if versions else None,
            seconds=self.seconds,
            update_latency_ms=_in_ms([each.update_latency.recent() for each in every]),
            alert_latency_ms=_in_ms([each.alert_latency.recent() for each in every]),
            alerts_file=self.config.alerts,
            undelivered=self.undelivered,
            notes=report.summary() if report else "",
        )

    async def _pump(self, scans: AsyncIterator[Scan]) -> None:
        """Send all scans in their time, and wait for their answers."""
        pace = Pace(self.config.rate)
        async for scan in scans:
            for part in split(scan, self.config.interval) if math.isfinite(self.config.rate) else [scan]:
                await pace.wait(float(part.rows[0, TIME]))
                await self._room(self._most - len(part.rows), self._most_scans - 1)
                await self._send(part)
        await self._room(0, 0)

    async def _room(self, measurements: int, scans: float) -> None:
        """Wait until at most so many measurements and scans have no answer."""
        while self._unanswered > max(0, measurements) or len(self._deliveries) > scans:
            self._answered.clear()
            await self._answered.wait()

    async def _send(self, scan: Scan) -> None:
        """Hand a scan over to its feeds."""
        base = self.config.feed_name
        if self.config.feed_by == "sensor":
            parts = [(f"{base}/{sensor}", part) for sensor, part in scan.by_sensor()]
        else:
            parts = [(base, scan)]
        for name, part in parts:
            if name not in self.feeds:
                feed = Feed(
                    name,
                    self.config.urls,
                    config=self.config.feed,
                    on_alert=self._alert,
                    on_refinement=self._refinement,
                )
                feed.open()
                self.feeds[name] = feed
            self._unanswered += len(part.rows)
            delivery = asyncio.ensure_future(self._deliver(self.feeds[name], part))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._delivered)
        await asyncio.sleep(0)  # the deliveries begin in this order

    async def _deliver(self, feed: Feed, scan: Scan) -> None:
        try:
            answers = await feed.send(scan.track_ids, scan.rows)
        except Exception as error:  # of the connection, or of writing an alert
            if not self._failed.done():
                self._failed.set_exception(error)
            return
        if self._poster is not None:
            self._poster.add(feed.name, scan.track_ids, scan.rows, answers)
        self._unanswered -= len(scan.rows)

    def _delivered(self, delivery: asyncio.Task[None]) -> None:
        self._deliveries.discard(delivery)
        self._answered.set()

    def _alert(self, alert: Alert) -> None:
        self._write(alert)
        self.alerts = [*self.alerts[-_ALERTS_SHOWN + 1 :], alert]
        shown = {(each.feed, each.track_id) for each in self.alerts[:-1]}
        self.refinements = {key: each for key, each in self.refinements.items() if key in shown}

    def _refinement(self, refinement: Refinement) -> None:
        self._write(refinement)
        key = refinement.feed, refinement.track_id
        if any(key == (alert.feed, alert.track_id) for alert in self.alerts):
            self.refinements[key] = refinement

    async def _show(self, show: Callable[[StreamRun], None]) -> None:
        while True:
            self.seconds = time.monotonic() - self.begun
            show(self)
            await asyncio.sleep(_BETWEEN_LOOKS)


@contextmanager
def _event_writer(path: Path | None, *, is_printed: bool) -> Iterator[Callable[[Alert | Refinement], None]]:
    """Yield a function that writes an alert or a refinement as one line at once.

    Args:
        path: file to which the lines are appended; None for no file.
        is_printed: whether they are printed to standard output.

    Raises:
        InputError: the file cannot be written.
    """
    with ExitStack() as stack:
        file: TextIO | None = None
        if path is not None:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("a", encoding="utf-8"))

        def write(event: Alert | Refinement) -> None:
            line = event.to_json()
            if is_printed:
                print(line, flush=True)
            if path is not None and file is not None:
                with writing(path):
                    file.write(line + "\n")
                    file.flush()

        yield write


async def _as_async(scans: Iterator[Scan]) -> AsyncIterator[Scan]:
    for scan in scans:
        yield scan


def _in_ms(latencies: list[npt.NDArray[np.float64]]) -> tuple[float | None, float | None]:
    p50, p99 = percentiles(np.concatenate([np.zeros(0), *latencies]))
    return (None, None) if math.isnan(p50) else (1e3 * p50, 1e3 * p99)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _listed(title: str, counts: dict[str, int]) -> str:
    parts = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())
    return f"{title}: {parts}" if parts else ""
