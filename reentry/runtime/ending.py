"""Runs a coroutine so that a signal that asks for the end closes it first."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType

from reentry.runtime.signals import ENDING


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
