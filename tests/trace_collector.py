"""A stand-in for an OpenTelemetry collector: it takes spans as OTLP/JSON over HTTP, and keeps them for the tests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SERVER, CLIENT = 2, 3
"""Kinds of spans, in the numbers of OTLP."""


@dataclass
class ReceivedSpan:
    """A span that arrived."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the root of a trace."""
    kind: int
    attributes: dict[str, Any]
    links: list[str]
    """Ids of the spans that it links to."""
    failed: bool


@dataclass
class Collector:
    """A running collector."""

    url: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """Requests as they arrived."""
    unread: list[str] = field(default_factory=list)
    """Errors of requests whose spans could not be read."""

    def of_trace(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of a trace that have arrived."""
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def running_collector(port: int = 0) -> Iterator[Collector]:
    """A collector at a port of this machine; 0 takes a free one."""
    collector = Collector("")
    connections: list[socket.socket] = []

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # exporters keep their connection

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            accepted = self.path == "/v1/traces" and self.headers["content-type"] == "application/json"
            # The answer comes first, because an exporter drops spans that are not answered in time.
            self.send_response(200 if accepted else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            if accepted:
                collector.bodies.append(body)
                try:
                    collector.spans.extend(_spans(json.loads(body)))
                except Exception as error:
                    collector.unread.append(f"{error!r}: {body.decode(errors='replace')}")
            else:
                collector.unread.append(f"{self.path}, {self.headers['content-type']}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", port), Receiver) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
            for connection in connections:
                with suppress(OSError):  # its exporter has closed it
                    connection.shutdown(socket.SHUT_RDWR)


def _spans(message: dict[str, Any]) -> Iterator[ReceivedSpan]:
    for resource in message["resourceSpans"]:
        service = _attributes(resource["resource"]).get("service.name", "")
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield ReceivedSpan(
                    service=service,
                    name=span["name"],
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId", ""),
                    kind=span["kind"],
                    attributes=_attributes(span),
                    links=[link["spanId"] for link in span.get("links", ())],
                    failed=span.get("status", {}).get("code") == 2,
                )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    values = {each["key"]: each["value"] for each in holder.get("attributes", ())}
    return {
        key: int(value["intValue"]) if "intValue" in value else next(iter(value.values()), None)
        for key, value in values.items()
    }
