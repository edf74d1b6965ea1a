"""Parallel work in several processes, with the results in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

from reentry.errors import ReentryError

Result = TypeVar("Result")

MOST_PROCESSES: Final = 1_024
"""Largest number of processes."""


def in_order(compute: Callable[[int], Result], tasks: int, processes: int) -> Iterator[Result]:
    """Yield `compute(0)`, `compute(1)` and so on in order, computed by several processes.

    Process i computes the tasks i, i + `processes`, i + 2 `processes` and so on. It waits until a result is received
    before it sends the next one, so memory holds one or two results for each process. The processes are terminated
    when the iterator ends. If this process is killed, each of them exits when it has a result to send.

    Args:
        compute: function of the task's index. The function and its results can be pickled.
        tasks: number of tasks.
        processes: number of processes. With 1 the tasks run in this process.

    Raises:
        ReentryError: a process was killed.
    """
    processes = min(processes, tasks)
    if processes <= 1:
        yield from map(compute, range(tasks))
        return
    context = multiprocessing.get_context("spawn")  # a fork copies locks that other threads hold
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_work, args=(sending, compute, range(first, tasks, processes)), daemon=True)
        for first, (_, sending) in enumerate(pipes)
    ]
    try:
        with sigint_blocked():
            for worker, (_, sending) in zip(workers, pipes, strict=True):
                worker.start()
                sending.close()  # otherwise the death of the process would not close the pipe
        for task in range(tasks):
            yield _received(pipes[task % processes][0], workers[task % processes])
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
        for ends in pipes:
            for end in ends:
                end.close()


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT in processes that start in the block.

    Ctrl-C reaches the whole process group, but this process alone handles it and terminates the others.
    """
    resource_tracker.ensure_running()  # otherwise the first start does this and unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(receiving: Connection, worker: multiprocessing.process.BaseProcess) -> Any:
    try:
        result = receiving.recv()
    except EOFError:
        worker.join()
        raise ReentryError(
            "a worker process ended",
            got=f"exit status {worker.exitcode}",
            fix="provide more memory, or use --processes 1",
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


def _work(sending: Connection, compute: Callable[[int], Any], tasks: range) -> None:
    try:
        for task in tasks:
            sending.send(compute(task))
    except (BrokenPipeError, KeyboardInterrupt):  # nobody receives the results any more
        return
    except Exception as error:
        sending.send(error)
