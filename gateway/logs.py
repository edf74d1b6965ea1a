"""Log lines as JSON on standard error, each with the id of the request in hand."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from gateway.context import CURRENT


def log_json() -> None:
    """Print the log lines of this process, those of libraries included, as one JSON object each."""
    shared: list[Any] = [
        _request_id,
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


def _request_id(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    context = CURRENT.get()
    if context is not None:
        event["request_id"] = context.request_id
    return event
