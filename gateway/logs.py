"""Log lines as JSON on standard error, each with the ids of the request and of the trace in hand."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog

from gateway.context import CURRENT
from gateway.traces import trace_id


def log_json() -> None:
    """Print the log lines of this process, those of libraries included, as one JSON object each."""
    shared: list[Any] = [
        _ids,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # Lines of structlog go to the file directly; through the library's own logging they cost ten times as much.
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_encode)],
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("httpx", "alembic", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _encode(event: dict[str, Any], **_options: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def _ids(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = CURRENT.get()
    if context is not None:
        event["request_id"] = context.request_id
    trace = trace_id()
    if trace is not None:
        event["trace_id"] = trace
    return event
