"""Spans without a collector."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, StatusCode

from client.connection import Endpoint
from gateway import traces
from gateway.settings import GatewaySettings

TRITON = Endpoint.parse("grpc://127.0.0.1:8001")
SCOPE = {"type": "http", "method": "POST", "path": "/v1/tracks:score", "scheme": "http", "headers": []}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(traces, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def test_without_an_endpoint_there_is_no_span_and_no_thread(tmp_path: Path) -> None:
    async def check() -> None:
        async with traces.exporting(GatewaySettings(data=tmp_path)):
            assert not any(thread.name.startswith("Otel") for thread in threading.enumerate())
            with traces.request_span(SCOPE, "request"), traces.step_span("step") as step:
                assert step is INVALID_SPAN
                assert traces.current_span() is None
                assert traces.trace_id() is None
                with traces.call_span(TRITON, "reentry", {"x": np.zeros(1)}, ()) as call:
                    assert traces.call_metadata(call) == ()

    asyncio.run(check())


def test_a_call_for_three_requests_has_the_first_as_its_parent_and_links_to_the_others_once(
    exported: InMemorySpanExporter,
) -> None:
    requests = []
    for _ in range(3):
        with traces.request_span(SCOPE, "request") as span:
            requests.append(span)
    with traces.call_span(TRITON, "reentry", {"x": np.zeros((4, 2))}, [*requests, requests[1]]) as call:
        [(name, value)] = traces.call_metadata(call)
    ended = exported.get_finished_spans()[-1]
    assert ended.parent == requests[0].get_span_context()
    assert [link.context for link in ended.links] == [span.get_span_context() for span in requests[1:]]
    assert ended.attributes is not None
    assert ended.attributes["reentry.tracks"] == 4
    context = call.get_span_context()
    assert name == "traceparent"
    assert value.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


def test_an_error_is_noted_by_its_type_without_its_text(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match=r"48\.1"), traces.step_span("step"):
        raise ValueError("latitude 48.1")
    (span,) = exported.get_finished_spans()
    assert span.status.status_code == StatusCode.ERROR
    assert span.attributes == {"error.type": "ValueError"}
    assert "48.1" not in span.to_json()


def test_a_probe_of_health_has_no_span(exported: InMemorySpanExporter) -> None:
    with traces.request_span({**SCOPE, "path": "/health/ready"}, "request"):
        assert traces.current_span() is None
    assert not exported.get_finished_spans()


def test_an_unknown_method_and_an_invalid_traceparent_are_replaced(exported: InMemorySpanExporter) -> None:
    scope = {**SCOPE, "method": "BREW", "headers": [(b"traceparent", b"00-zz")]}
    with traces.request_span(scope, "request") as span:
        traces.request_ended(span, "BREW", "unmatched", 503)
    (ended,) = exported.get_finished_spans()
    assert (ended.name, ended.parent) == ("HTTP unmatched", None)
    assert ended.attributes is not None
    assert (ended.attributes["http.request.method"], ended.attributes["error.type"]) == ("_OTHER", "503")
