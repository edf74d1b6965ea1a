"""Chunks of simulated tracks made by several processes, given in their order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import pandas as pd

from reentry.errors import ReentryError


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(make: Callable[[int], pd.DataFrame], chunks: int, processes: int) -> Iterator[pd.DataFrame]:
    """`make(0)`, `make(1)`, ... up to `chunks`, made by so many processes and given in order.

    Process i makes every `processes`-th chunk from the i-th on and waits until it is taken, so that memory holds one or
    two chunks a process. The processes end with the iterator, however it ends; and if this one is killed, as soon as
    they have something to send.

    Args:
        make: picklable.
        chunks: how many there are.
        processes: 1 makes them in this process.

    Raises:
        ReentryError: a process was killed.
    """
    processes = min(processes, chunks)
    if processes <= 1:
        yield from map(make, range(chunks))
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_work, args=(sending, make, range(first, chunks, processes)), daemon=True)
        for first, (_, sending) in enumerate(pipes)
    ]
    try:
        with _deaf_to_ctrl_c():
            for worker, (_, sending) in zip(workers, pipes, strict=True):
                worker.start()
                sending.close()  # the process has its own; with this one closed its death is seen
        for chunk in range(chunks):
            yield _taken(pipes[chunk % processes][0], workers[chunk % processes])
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


def _taken(receiving: Connection, worker: multiprocessing.process.BaseProcess) -> pd.DataFrame:
    try:
        made = receiving.recv()
    except EOFError:
        worker.join()
        raise ReentryError(
            "a process of the simulation ended",
            got=f"exit status {worker.exitcode}",
            fix="give it more memory, or take --processes 1",
        ) from None
    if isinstance(made, Exception):
        raise made
    return made  # type: ignore[no-any-return]  # a pipe carries anything


def _work(sending: Connection, make: Callable[[int], pd.DataFrame], chunks: range) -> None:
    try:
        for chunk in chunks:
            sending.send(make(chunk))
    except BrokenPipeError:
        return
    except Exception as error:
        sending.send(error)
