"""The signals that ask a program to end, as an exception, so that what is open is closed on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
