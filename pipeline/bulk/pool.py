"""Worker processes that compute tasks in any order, and in which the task of a lost process is computed again."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from reentry.errors import ReentryError
from reentry.runtime.pool import sigint_blocked

_log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""Number of workers that one task may lose before the run ends."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers(Protocol):
    """Processes that compute tasks."""

    retried: int
    """Number of tasks that were computed again because their worker was lost; 0 if it is unknown."""
    driver_bytes: int
    """Number of bytes of tasks and results that passed through this process."""

    def map(self, compute: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield the result of each task, in the order in which they finish.

        Raises:
            ReentryError: A task has lost `ATTEMPTS` workers.
            Exception: An exception of `compute`.
        """


@dataclass(slots=True)
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    task: int | None = None
    """Index of the task that it computes; None if it is idle."""


class ProcessPool:
    """Processes on this machine, see `Workers`. They end with the block, and when this process is killed."""

    def __init__(self, processes: int) -> None:
        """Start no process yet.

        Args:
            processes: Largest number of processes.
        """
        self.retried = 0
        self.driver_bytes = 0
        self._processes = processes
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")  # a fork copies locks that other threads hold

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def map(self, compute: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """See `Workers`."""
        waiting = deque(range(len(tasks)))
        losses = [0] * len(tasks)
        while len(self._workers) < min(self._processes, len(tasks)):
            self._workers.append(self._started())
        remaining = len(tasks)
        while remaining:
            for worker in self._workers:
                if worker.task is None and waiting:
                    worker.task = waiting.popleft()
                    self._send(worker, (compute, tasks[worker.task]))
            for worker in self._ready():
                try:
                    result = self._received(worker)
                except (EOFError, OSError):
                    self._replace(worker, losses, waiting)
                    continue
                worker.task = None
                if isinstance(result, Exception):
                    raise result
                remaining -= 1
                yield result

    def _ready(self) -> list[_Worker]:
        """Wait until a worker has a result or is lost."""
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
        return [busy[connection] for connection in wait(list(busy)) if isinstance(connection, Connection)]

    def _send(self, worker: _Worker, message: object) -> None:
        data = pickle.dumps(message)
        self.driver_bytes += len(data)
        try:
            worker.connection.send_bytes(data)
        except ConnectionError:
            _log.debug("worker %s is lost; reading its connection reports it", worker.process.pid)

    def _received(self, worker: _Worker) -> Any:
        data = worker.connection.recv_bytes()
        self.driver_bytes += len(data)
        return pickle.loads(data)

    def _replace(self, lost: _Worker, losses: list[int], waiting: deque[int]) -> None:
        """Start another process in place of a lost one, and put its task back."""
        task = lost.task
        assert task is not None
        lost.process.join()
        lost.connection.close()
        self._workers.remove(lost)
        losses[task] += 1
        if losses[task] == ATTEMPTS:
            raise ReentryError(
                f"{ATTEMPTS} worker processes were lost at the same task",
                got=f"exit status {lost.process.exitcode}",
                fix="provide more memory, or use fewer --processes or smaller parts; finished parts are kept",
            )
        _log.warning("a worker ended with exit status %s; computing its task again", lost.process.exitcode)
        self.retried += 1
        waiting.appendleft(task)
        self._workers.append(self._started())

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        with sigint_blocked():
            process.start()
        theirs.close()  # otherwise the death of the process would not close the connection
        return _Worker(process, ours)


def result_or_error(compute: Callable[[Task], Result], task: Task) -> Result | Exception:
    """Return the result of a task, or the exception that it raised."""
    try:
        return compute(task)
    except Exception as error:
        return error


def _work(connection: Connection) -> None:
    """Compute tasks until the other end is closed."""
    while True:
        try:
            compute, task = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            connection.send_bytes(pickle.dumps(result_or_error(compute, task)))
        except BrokenPipeError:  # nobody receives the results any more
            return
