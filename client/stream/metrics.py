"""Metrics of the feeds of this process, in the text format of Prometheus, over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, get_args

import numpy as np

from client.stream.feed import Feed
from client.stream.statistics import BOUNDS, Latencies, Rejection, ReplayReason
from reentry.errors import ConfigError

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(feeds: Iterable[Feed]) -> str:
    """Return the metrics of feeds as text."""
    gauge, counter, histogram = "gauge", "counter", "histogram"
    known = list(feeds)
    of_feed = [(f'feed="{_escaped(feed.name)}"', feed) for feed in known]
    lines: list[str] = []

    def add(name: str, kind: str, meaning: str, samples: Iterable[str]) -> None:
        lines.extend([f"# HELP reentry_stream_{name} {meaning}", f"# TYPE reentry_stream_{name} {kind}"])
        lines.extend(f"reentry_stream_{name}{sample}" for sample in samples)

    def counts(of: Callable[[Feed], Iterable[tuple[str, int]]]) -> list[str]:
        """Return a sample for each reason of each feed; a rate needs a value before the first event."""
        return [f'{{{label},reason="{reason}"}} {count}' for label, feed in of_feed for reason, count in of(feed)]

    def values(of: Callable[[Feed], int]) -> list[str]:
        return [f"{{{label}}} {of(feed)}" for label, feed in of_feed]

    add("live_tracks", gauge, "Tracks of the feed.", values(lambda feed: len(feed.tracks)))
    add("updates_total", counter, "Answered measurements.", values(lambda feed: feed.statistics.updates))
    add(
        "rejected_total",
        counter,
        "Measurements that changed nothing, by reason.",
        counts(lambda feed: [(reason, feed.statistics.rejected[reason]) for reason in get_args(Rejection)]),
    )
    add("alerts_total", counter, "Onsets of reentry.", values(lambda feed: feed.statistics.alerts))
    add(
        "replays_total",
        counter,
        "Tracks that were replayed, by reason.",
        counts(lambda feed: [(reason, feed.statistics.replays[reason]) for reason in get_args(ReplayReason)]),
    )
    add(
        "replayed_measurements_total",
        counter,
        "Measurements in replays.",
        values(lambda feed: feed.statistics.replayed_measurements),
    )
    add(
        "truncated_replays_total",
        counter,
        "Replayed tracks whose first measurements the buffer no longer held.",
        values(lambda feed: feed.statistics.truncated_replays),
    )
    add(
        "alert_latency_seconds",
        histogram,
        "Time from handing the measurement of an onset to the feed until its alert.",
        _buckets((label, feed.statistics.alert_latency) for label, feed in of_feed),
    )
    add(
        "update_latency_seconds",
        histogram,
        "Time from handing a measurement to the feed until its answer.",
        _buckets((label, feed.statistics.update_latency) for label, feed in of_feed),
    )
    return "\n".join(lines) + "\n"


def _buckets(latencies: Iterable[tuple[str, Latencies]]) -> Iterator[str]:
    """Yield the samples of histograms, whose name ends with the kind of each sample."""
    for label, each in latencies:
        cumulative = np.cumsum(each.counts).tolist()
        for bound, count in zip([f"{bound:g}" for bound in BOUNDS] + ["+Inf"], cumulative, strict=True):
            yield f'_bucket{{{label},le="{bound}"}} {count}'
        yield f"_sum{{{label}}} {each.total:.6f}"
        yield f"_count{{{label}}} {cumulative[-1]}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@contextmanager
def serving_metrics(port: int | None, feeds: Callable[[], Iterable[Feed]]) -> Iterator[int | None]:
    """Serve the metrics at /metrics on all addresses of this machine, and yield the port.

    Args:
        port: port; 0 for a free one, None for no metrics.
        feeds: function that returns the feeds.

    Raises:
        ConfigError: the port cannot be used.
    """
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exposition(feeds()).encode()
            self.send_response(200)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no log."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"the metrics port cannot be used: {error}", got=str(port)) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
