"""OpenTelemetry traces: one span for each request, each call to Triton and each turn on a job.

Without the setting `otlp_endpoint` no span exists, and the functions here return at once. Attributes contain no body,
no key and no coordinates: they are the ones documented in docs/gateway-traces.md.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from http import HTTPStatus
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from client.connection import Array, Endpoint
from client.grpc_request import METHOD
from gateway.settings import GatewaySettings
from reentry import __version__
from reentry.schema import MODEL_VERSION

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"})
_CARRIED: Final = (b"traceparent", b"tracestate")
_RPC: Final = METHOD.removeprefix("/")
_EXPORT_SECONDS: Final = 5.0
"""Longest wait for the collector, in the thread of the exporter, s."""
_CLOSE_SECONDS: Final = 3.0
"""Longest wait at shutdown for the last spans to be sent, s."""
_NO_SPAN: Final = nullcontext(INVALID_SPAN)

_propagator = TraceContextTextMapPropagator()
_tracer: Tracer | None = None


@asynccontextmanager
async def exporting(settings: GatewaySettings) -> AsyncIterator[None]:
    """Send spans to the collector during the block; do nothing if the settings name none.

    A thread of its own sends them. While the collector is away they are dropped.
    """
    global _tracer
    if not settings.otlp_endpoint:
        yield
        return
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "reentry-gateway", "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    url = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=_EXPORT_SECONDS)))
    _tracer = provider.get_tracer("gateway", __version__)
    try:
        yield
    finally:
        _tracer = None
        # The SDK waits for a collector that hangs as long as there are batches, so the wait is limited here.
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_SECONDS)


def current_span() -> Span | None:
    """Return the span of the request or job in hand; None without one."""
    if _tracer is None:
        return None
    span = get_current_span()
    return span if span.get_span_context().is_valid else None


def trace_id() -> str | None:
    """Return the id of the trace of the request or job in hand, as 32 hexadecimal digits; None without one."""
    span = current_span()
    return None if span is None else f"{span.get_span_context().trace_id:032x}"


def request_span(scope: Scope, request_id: str) -> AbstractContextManager[Span]:
    """Return the server span of a request, which continues the trace of the client's `traceparent`.

    Probes of health get no span.
    """
    if _tracer is None or scope["path"].startswith("/health"):
        return _NO_SPAN
    carried = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED}
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    return _active(
        _tracer,
        method,
        kind=SpanKind.SERVER,
        context=_propagator.extract(carried, Context()),
        attributes={
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "reentry.request_id": request_id,
        },
    )


def request_ended(span: Span, method: str, route: str, status: int) -> None:
    """Note the answer to a request in its span.

    Args:
        span: server span of the request.
        method: method of the request.
        route: template of the path.
        status: status of the answer; 0 if the client was gone before.
    """
    if not span.is_recording():
        return
    span.update_name(f"{method if method in _METHODS else 'HTTP'} {route}")
    span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def step_span(name: str, attributes: Mapping[str, str | int] | None = None) -> AbstractContextManager[Span]:
    """Return a span of one step of the request in hand, or of a job, with these attributes."""
    if _tracer is None:
        return _NO_SPAN
    return _active(_tracer, name, kind=SpanKind.INTERNAL, context=None, attributes=attributes or {})


def note(attributes: Mapping[str, str | int]) -> None:
    """Add attributes to the span of the step in hand."""
    span = current_span()
    if span is not None:
        span.set_attributes(attributes)


def call_span(
    endpoint: Endpoint, model: str, inputs: Mapping[str, Array], requests: Sequence[Span]
) -> AbstractContextManager[Span]:
    """Return the client span of a call to Triton.

    Args:
        endpoint: protocol and address of Triton.
        model: name of the model.
        inputs: inputs of the model, whose first axis counts tracks.
        requests: spans that the call serves. The first one is its parent, and it links to the others.
    """
    if _tracer is None:
        return _NO_SPAN
    host, _, port = endpoint.address.rpartition(":")
    path = f"/v2/models/{model}/infer"
    call = {"rpc.system.name": "grpc", "rpc.method": _RPC}
    if endpoint.scheme == "http":
        call = {"http.request.method": "POST", "url.full": f"{endpoint}{path}"}
    spans = list({span.get_span_context().span_id: span for span in requests}.values())
    return _active(
        _tracer,
        _RPC if endpoint.scheme == "grpc" else f"POST {path}",
        kind=SpanKind.CLIENT,
        context=set_span_in_context(spans[0], Context()) if spans else Context(),
        attributes={
            **call,
            "server.address": host,
            "server.port": int(port),
            "reentry.model": model,
            "reentry.tracks": len(next(iter(inputs.values()))),
        },
        links=[Link(span.get_span_context()) for span in spans[1:]],
    )


def call_ended(span: Span, result: str, answer: Mapping[str, Array]) -> None:
    """Note the end of a call to Triton, and the version of the network that answered, in its span."""
    if not span.is_recording():
        return
    span.set_attribute("reentry.result", result)
    version = answer.get(MODEL_VERSION.name)
    if version is not None and version.size:
        span.set_attribute("reentry.model_version", int(version.flat[0]))


def call_metadata(span: Span) -> tuple[tuple[str, str], ...]:
    """Return the headers that make a span the parent of Triton's spans; none if the span is not sampled."""
    if not span.is_recording():
        return ()
    carried: dict[str, str] = {}
    _propagator.inject(carried, set_span_in_context(span, Context()))
    return tuple(carried.items())


@contextmanager
def _active(
    tracer: Tracer,
    name: str,
    *,
    kind: SpanKind,
    context: Context | None,
    attributes: Mapping[str, str | int],
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """Make a span the current one. An error is noted by its type, because its text may contain values of the body."""
    with tracer.start_as_current_span(
        *(name, context, kind, attributes, links), record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            raise
