"""The signals that ask a program to end, as an exception, so that what is open is closed on the way out."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a supervisor's wish, a closed terminal."""


class Ended(KeyboardInterrupt):
    """A signal asked for the end.

    A KeyboardInterrupt, since asyncio lets no other exception of a signal out of its callbacks.
    """


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` in the block at the first of `ENDING`.

    Those that follow are ignored, since closing has its own deadlines. A SIGHUP that is ignored already stays so, as
    nohup wants it. Outside the main thread, which alone gets signals, nothing changes.

    Example:
        with ended_by_signals(), EmbeddedServer(config) as server:
            score(server.grpc_url)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise Ended

    before = {number: signal.getsignal(number) for number in ENDING}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_ended(work: Callable[[], Awaitable[None]]) -> None:
    """`asyncio.run(work())`; a signal of `ENDING` cancels it, and is delivered again once everything is closed.

    A handler that raises amid the callbacks of asyncio and its libraries may find its exception swallowed there, and
    the wish to end lost. Signals without a handler of Python's keep what they have.
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
    before = {number: handler for number in ENDING if callable(handler := signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, end)
        asyncio.run(cancellable())
    except asyncio.CancelledError:
        if received is None:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received is not None:
        signal.raise_signal(received)
