"""Workers of bulk scoring on a Ray cluster: each task is one of Ray Core, which runs it on a free core.

Ray Data is not used: a dataset whose actors take every core hangs, because its read tasks never get one (ray #44687).
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

import ray
from ray.exceptions import RayError

from pipeline.bulk.pool import ATTEMPTS, Result, Task, result_or_error
from reentry.errors import ConfigError, ReentryError

LOCAL: Final = "local"
"""Address that starts a cluster on this machine, for a trial."""
_PENDING: Final = 1_000
"""Number of tasks that the cluster knows at a time. An autoscaler adds machines for those that wait."""


class RayTasks:
    """Tasks of a cluster, see `pipeline.bulk.pool.Workers`."""

    def __init__(self, address: str) -> None:
        """Connect to no cluster yet.

        Args:
            address: Address of the cluster: HOST:PORT, `auto` on one of its machines, or `LOCAL`.
        """
        self.retried = 0
        self.driver_bytes = 0
        self._address = address
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Connect to the cluster.

        Raises:
            ConfigError: There is no cluster at this address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        dashboard = False if self._address == LOCAL else None
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self._address, logging_level=logging.WARNING, include_dashboard=dashboard)
        except Exception as error:  # Ray raises exceptions without a common base class
            raise ConfigError(
                f"there is no usable Ray cluster: {error}",
                where=self._address,
                fix="start one: ray start --head; see docs/bulk-scoring.md",
            ) from error
        self._stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints lost workers to standard output
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray replaces it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()  # also cancels the tasks of this program
        self._stack.close()

    def map(self, compute: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """See `Workers`. Ray itself computes the task of a lost worker or machine again."""
        remote: Any = ray.remote(max_retries=ATTEMPTS - 1, num_cpus=1)(result_or_error)
        waiting = iter(tasks)
        pending = [self._submitted(remote, compute, task) for task in islice(waiting, _PENDING)]
        while pending:
            finished, pending = ray.wait(pending)
            pending += [self._submitted(remote, compute, task) for task in islice(waiting, len(finished))]
            for reference in finished:
                try:
                    result = ray.get(reference)
                except RayError as error:
                    raise ReentryError(
                        f"{ATTEMPTS} workers were lost at the same task",
                        where=self._address,
                        got=str(error).strip().splitlines()[0],
                        fix="provide more memory, or use smaller parts; finished parts are kept",
                    ) from error
                self.driver_bytes += len(pickle.dumps(result))
                if isinstance(result, Exception):
                    raise result
                yield result

    def _submitted(self, remote: Any, compute: Callable[[Task], Result], task: Task) -> Any:
        self.driver_bytes += len(pickle.dumps((compute, task)))
        return remote.remote(compute, task)
