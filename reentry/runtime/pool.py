"""Parts of a work done by several processes, given in their order."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

from reentry.errors import ReentryError

Part = TypeVar("Part")

MOST_PROCESSES: Final = 1_024


def in_order(make: Callable[[int], Part], parts: int, processes: int) -> Iterator[Part]:
    """`make(0)`, `make(1)`, ... up to `parts`, made by so many processes and given in order.

    Process i makes every `processes`-th part from the i-th on and waits until it is taken, so that memory holds one or
    two parts a process. The processes end with the iterator, however it ends; and if this one is killed, as soon as
    they have something to send.

    Args:
        make: picklable, and what it gives, too.
        parts: how many there are.
        processes: 1 makes them in this process.

    Raises:
        ReentryError: a process was killed.
    """
    processes = min(processes, parts)
    if processes <= 1:
        yield from map(make, range(parts))
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_work, args=(sending, make, range(first, parts, processes)), daemon=True)
        for first, (_, sending) in enumerate(pipes)
    ]
    try:
        with _deaf_to_ctrl_c():
            for worker, (_, sending) in zip(workers, pipes, strict=True):
                worker.start()
                sending.close()  # the process has its own; with this one closed its death is seen
        for part in range(parts):
            yield _taken(pipes[part % processes][0], workers[part % processes])
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
        for ends in pipes:
            for end in ends:
                end.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C, which goes to the whole group: the first one ends the others."""
    resource_tracker.ensure_running()  # the first start would, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _taken(receiving: Connection, worker: multiprocessing.process.BaseProcess) -> Any:
    try:
        made = receiving.recv()
    except EOFError:
        worker.join()
        raise ReentryError(
            "a process ended",
            got=f"exit status {worker.exitcode}",
            fix="give it more memory, or take --processes 1",
        ) from None
    if isinstance(made, Exception):
        raise made
    return made


def _work(sending: Connection, make: Callable[[int], Any], parts: range) -> None:
    try:
        for part in parts:
            sending.send(make(part))
    except (BrokenPipeError, KeyboardInterrupt):  # nobody takes what is made any more
        return
    except Exception as error:
        sending.send(error)
