"""Log lines as JSON on standard error, each with the ids of the request and of the trace in hand."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from gateway.context import CURRENT
from gateway.traces import trace_id


def log_json() -> None:
    """Print the log lines of this process, those of libraries included, as one JSON object each."""
    shared: list[Any] = [
        _ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
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


def _ids(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = CURRENT.get()
    if context is not None:
        event["request_id"] = context.request_id
    trace = trace_id()
    if trace is not None:
        event["trace_id"] = trace
    return event
