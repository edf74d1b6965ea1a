"""Worker processes whose lost tasks are computed again."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from pipeline.bulk.pool import ATTEMPTS, ProcessPool
from reentry.errors import InputError, ReentryError


def square(task: int) -> tuple[int, int]:
    return task * task, os.getpid()


def die_once(marker: Path, task: int) -> int:
    """Return the task; its first worker is killed."""
    if task == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die(_task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(task: int) -> None:
    raise InputError("bad task", where=str(task))


def test_every_task_is_computed_once_by_several_processes_that_end_with_the_block() -> None:
    with ProcessPool(2) as pool:
        results = list(pool.map(square, range(100)))
        again = list(pool.map(square, [7]))
    pids = {pid for _, pid in results}
    assert sorted(value for value, _ in results) == [task * task for task in range(100)]
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert again[0][0] == 49
    assert again[0][1] in pids  # the processes stay between two calls
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert pool.driver_bytes > 101 * 20
    assert pool.retried == 0


def test_the_task_of_a_killed_process_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ProcessPool(2) as pool:
        assert sorted(pool.map(partial(die_once, tmp_path / "marker"), range(10))) == list(range(10))
    assert pool.retried == 1
    assert "exit status -9" in caplog.text


def test_a_task_that_loses_every_worker_ends_the_run() -> None:
    with ProcessPool(1) as pool, pytest.raises(ReentryError, match="exit status -9"):
        list(pool.map(die, [0]))
    assert pool.retried == ATTEMPTS - 1


def test_an_exception_of_a_task_is_raised_with_its_fields() -> None:
    with ProcessPool(1) as pool, pytest.raises(InputError) as raised:
        list(pool.map(fail, [5]))
    assert (raised.value.problem, raised.value.where) == ("bad task", "5")
