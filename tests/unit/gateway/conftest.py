"""Fixtures for all unit tests of the gateway: plain tracebacks, a patient database, and the clock of the limits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import structlog

from gateway.accounts import limits
from gateway.database import engine


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Let log lines have tracebacks without local variables, as those of the gateway.

    The default of structlog draws frames with all local variables, which takes seconds and stops the event loop.
    """
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture(autouse=True)
def patient_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for a connection, a lock and a transaction than in production, as a loaded machine needs."""
    monkeypatch.setattr(engine, "_CONNECT_SECONDS", 60)
    monkeypatch.setattr(engine, "_BUSY_MILLISECONDS", 60_000)
    monkeypatch.setattr(engine, "_LONGEST_SECONDS", 60.0)


@pytest.fixture
def limits_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Clock of the limits in memory, which stands still unless a test moves its attribute `now`, s."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("throttled.utils.now_mono_f", lambda: clock.now)
    return clock
