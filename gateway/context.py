"""What is known of the request in hand: its id, and what its log line and metrics report."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """The request in hand."""

    request_id: str
    route: str = "unmatched"
    """Template of the path, such as /v1/jobs/{id}: the label of the metrics."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that the answer gets, such as those of the rate limits."""
    log: dict[str, Any] = field(default_factory=dict)
    """Further fields of the log line."""
    logged: bool = True
    """Whether the request gets a log line if its status is below 500."""


CURRENT: Final[ContextVar[RequestContext | None]] = ContextVar("request", default=None)
"""Context of the request in hand, for log lines."""
