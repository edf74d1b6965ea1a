"""Metrics of a lake for Prometheus. They are read from the tables, so they are right even if no writer runs."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

import pyarrow.compute as pc
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.ingest.hours import parse_hour
from pipeline.lake.lake import Lake
from pipeline.lake.status import LakeStatus, lake_status
from reentry.errors import LakeError

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_READS: Final = 60.0
_PREFIX: Final = "reentry_lake"


class LakeCollector(Collector):
    """Collector that reads the tables at most once in `seconds`; a scrape in between gets the last metrics."""

    def __init__(self, lake: Lake, *, seconds: float = SECONDS_BETWEEN_READS) -> None:
        self._lake = lake
        self._seconds = seconds
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._status: LakeStatus | None = None
        self._refused: int | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics. An unreadable lake has only `readable`, so that no old figure looks current."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._seconds:
                self._read()
                self._read_at = time.monotonic()
            status, refused = self._status, self._refused
        yield _gauge("readable", "1 if the tables could be read, otherwise 0", status is not None)
        if status is None:
            return
        if status.newest_hour is not None:
            start = parse_hour(status.newest_hour).astimezone(dt.UTC).timestamp()
            yield _gauge("newest_hour_seconds", "Unix time of the start of the newest hour with rows in raw", start)
        for name, help_text in (("rows", "Rows"), ("version", "Newest version"), ("files", "Files")):
            family = GaugeMetricFamily(f"{_PREFIX}_table_{name}", f"{help_text} of the table", labels=["table"])
            for table in status.tables:
                family.add_metric([table.name], getattr(table, name))
            yield family
        entries = GaugeMetricFamily(
            f"{_PREFIX}_quarantine_entries", "Entries of the table quarantine", labels=["status", "kind"]
        )
        for (state, kind), count in status.quarantine_kinds.items():
            entries.add_metric([state, kind], count)
        yield entries
        if refused is not None:
            yield _gauge("gate_refusals", "Verdicts of the gate that refused a model", refused)

    def _read(self) -> None:
        try:
            self._status = lake_status(self._lake)
            self._refused = self._gate_refusals()
        except LakeError as error:
            self._status = self._refused = None
            _log.warning("%s", error)

    def _gate_refusals(self) -> int | None:
        if not self._lake.exists("verdicts"):
            return None
        with self._lake.errors("verdicts"):
            dataset = self._lake.open("verdicts").to_pyarrow_dataset()
            return int(dataset.count_rows(filter=pc.field("verdict") == "worse"))


def serve_metrics(lake: Lake, address: str, port: int) -> tuple[int, threading.Thread]:
    """Serve the metrics in a thread, and return its port and the thread. Port 0 takes a free one.

    Raises:
        OSError: The port is in use.
    """
    registry = CollectorRegistry()
    registry.register(LakeCollector(lake))
    server, thread = start_http_server(port, addr=address, registry=registry)
    return int(server.server_port), thread


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=float(value))
