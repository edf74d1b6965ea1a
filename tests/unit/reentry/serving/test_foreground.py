"""Restarts after a crash of the server, which a fake replaces here."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from reentry.errors import ServerError
from reentry.serving import ServerConfig, foreground
from reentry.serving.foreground import RESTARTS, serve_until_ended

CONFIG = ServerConfig(http_port=0)


class Clock:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(foreground, "time", clock)
    return clock


def serve(
    monkeypatch: pytest.MonkeyPatch, *, start: Callable[[int], None] = lambda _: None, wait: Callable[[int], None]
) -> list[ServerConfig]:
    """Serve with fake servers and return their configurations.

    `start` and `wait` are called with the number of earlier servers.
    """
    configs: list[ServerConfig] = []

    class Server:
        def __init__(self, config: ServerConfig) -> None:
            configs.append(config)
            self.config = ServerConfig(http_port=4000)

        def __enter__(self) -> SimpleNamespace:
            start(len(configs) - 1)
            return SimpleNamespace(config=self.config, wait=lambda: wait(len(configs) - 1))

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(foreground, "EmbeddedServer", Server)
    serve_until_ended(CONFIG, lambda _: None, lambda *_: None)
    return configs


def crash(_: int) -> None:
    raise ServerError("the Triton server was ended by SIGABRT")


def test_a_server_that_keeps_crashing_is_restarted_after_growing_pauses_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with pytest.raises(ServerError, match=f"ended by SIGABRT, after {RESTARTS} restarts in a row"):
        serve(monkeypatch, wait=crash)
    assert clock.pauses == [1, 2, 4, 8, 16]


def test_crashes_long_after_the_last_start_do_not_add_up(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def wait(before: int) -> None:
        clock.now += 3600
        if before == 20:
            signal.raise_signal(signal.SIGTERM)
        crash(before)

    assert len(serve(monkeypatch, wait=wait)) == 21
    assert set(clock.pauses) == {1}


def test_a_server_that_fails_to_restart_is_given_up(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def start(before: int) -> None:
        clock.now += 3600  # time before a failed start does not count as service
        if before:
            raise ServerError("http port 4000 cannot be used")

    with pytest.raises(ServerError, match="http port 4000 cannot be used, after 5 restarts"):
        serve(monkeypatch, start=start, wait=crash)


def test_a_server_that_was_never_ready_is_not_restarted(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    with pytest.raises(ServerError, match=r"SIGABRT$"):
        serve(monkeypatch, start=crash, wait=time.sleep)
    assert clock.pauses == []


def test_a_restart_keeps_the_ports_that_were_chosen(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def wait(before: int) -> None:
        if before:
            signal.raise_signal(signal.SIGINT)
        crash(before)

    first, second = serve(monkeypatch, wait=wait)
    assert (first.http_port, second.http_port) == (0, 4000)


@pytest.mark.usefixtures("clock")
def test_a_signal_between_two_starts_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground.time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    assert len(serve(monkeypatch, wait=crash)) == 1
