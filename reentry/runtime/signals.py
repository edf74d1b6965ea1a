"""Shutdown signals as an exception, so that a program closes its resources before it exits."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals of Ctrl-C, of a supervisor's stop, and of a closed terminal."""


class Ended(KeyboardInterrupt):
    """A shutdown signal was received.

    It is a KeyboardInterrupt, because asyncio swallows other exceptions of a signal handler in its callbacks.
    """


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` in the block at the first signal of `ENDING`.

    Later signals are ignored, because shutdown has its own deadlines. SIGHUP stays ignored if it was ignored before,
    as under nohup. In a thread other than the main thread nothing changes, because only the main thread gets signals.

    Example:
        with ended_by_signals(), EmbeddedServer(config) as server:
            score(server.grpc_url)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise Ended

    handled = [number for number in ENDING if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    with _handler(end, handled):
        yield


@contextmanager
def _handler(handler: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Handle signals with `handler` in the block, and restore the previous handlers after it."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def run_until_ended(work: Callable[[], Awaitable[None]]) -> None:
    """Run `asyncio.run(work())`. A signal of `ENDING` cancels the work and is raised again once everything is closed.

    A handler that raises an exception is not enough, because a callback of asyncio or of a library may swallow it.
    Signals without a Python handler are left alone.
    """
    received: signal.Signals | None = None
    cancel: Callable[[], object] | None = None

    async def cancellable() -> None:
        nonlocal cancel
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        cancel = partial(loop.call_soon_threadsafe, task.cancel)
        if received is None:
            await work()

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received is None:
            received = signal.Signals(number)
            if cancel is not None:
                cancel()

    if threading.current_thread() is not threading.main_thread():
        asyncio.run(cancellable())
        return
    with _handler(end, [number for number in ENDING if callable(signal.getsignal(number))]):
        try:
            asyncio.run(cancellable())
        except asyncio.CancelledError:
            if received is None:
                raise
    if received is not None:
        signal.raise_signal(received)
