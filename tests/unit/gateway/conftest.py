"""Fixture for all unit tests of the gateway: plain tracebacks in log lines."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Let log lines have tracebacks without local variables, as those of the gateway.

    The default of structlog draws frames with all local variables, which takes seconds and stops the event loop.
    """
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])
