"""The client of a live feed as the manifests start it: `reentry stream` with measurements on standard input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from reentry.schema import MEASUREMENT_COLUMNS
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from tests.contract.manifests import feed_options
from tests.gateway_servers import free_port

REENTRY = Path(sys.executable).with_name("reentry")


class FeedClient:
    """A running `reentry stream`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._flights = 0
        self.metrics = f"127.0.0.1:{port}"
        """Address of the metrics as host:port."""

    def send_flight(self, *, before_second_half: Callable[[], None] | None = None) -> int:
        """Send a flight with one repeated measurement as a new track; return the number of measurements.

        Args:
            before_second_half: function that is called once the first half is answered.
        """
        self._flights += 1
        flight = _flight()
        middle = len(flight) // 2
        before = self.updates()
        self._write(flight[:middle])
        if before_second_half is not None:
            until(lambda: self.updates() == before + middle)
            before_second_half()
        self._write(flight[middle - 1 :])
        return len(flight) + 1

    def updates(self) -> int:
        """Return the number of answered measurements."""
        text = exported_metrics(self.metrics)
        return int(sum(map(float, re.findall(r"^reentry_stream_updates_total{.*} (\S+)$", text, re.MULTILINE))))

    def _write(self, rows: list[dict[str, float]]) -> None:
        assert self._process.stdin is not None
        lines = [json.dumps({"track_id": self._flights, **row}) for row in rows]
        self._process.stdin.write(("\n".join(lines) + "\n").encode())
        self._process.stdin.flush()


@cache
def _flight() -> list[dict[str, float]]:
    """Measurements of a flight with a reentry."""
    table = simulate_trapezoid(TrapezoidConfig(tracks=1, shortest=60, longest=60, seed=3))
    rows: list[dict[str, float]] = table[list(MEASUREMENT_COLUMNS)].to_dict("records")
    return rows


def until(holds: Callable[[], bool], seconds: float = 180.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"condition does not hold after {seconds:g} s"
        time.sleep(0.05)


def exported_metrics(address: str) -> str:
    """Return the text of the metrics at host:port."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


@contextmanager
def running_feed(url: str, folder: Path) -> Iterator[FeedClient]:
    """Run the command of k8s/feeds against the server at host:port, until the block ends."""
    port = free_port()
    options = [*feed_options(), "--url", f"grpc://{url}", "--metrics-port", str(port)]
    with (folder / "feed.log").open("wb") as log:
        process = subprocess.Popen([REENTRY, "stream", *options], stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or _answers(f"127.0.0.1:{port}"))
        assert process.poll() is None, (folder / "feed.log").read_text()
        yield FeedClient(process, port)
    finally:
        process.kill()
        process.communicate()


def _answers(address: str) -> bool:
    try:
        return bool(exported_metrics(address))
    except OSError:
        return False
