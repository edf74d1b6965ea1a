"""A signal cancels asynchronous work, and is delivered again once the work is closed."""

from __future__ import annotations

import asyncio
import signal

import pytest

from reentry.runtime.signals import ENDING, Ended, ended_by_signals, run_until_ended


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_the_work_is_closed_before_the_signal_is_delivered(number: signal.Signals) -> None:
    closed: list[str] = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, number)
        try:
            await asyncio.sleep(60)
        finally:
            signal.raise_signal(number)  # a second signal does not interrupt the shutdown
            await asyncio.sleep(0.01)
            closed.append("work")

    before = signal.getsignal(number)
    with pytest.raises(Ended), ended_by_signals():
        run_until_ended(work)
    assert closed == ["work"]
    assert signal.getsignal(number) is before


def test_work_without_a_signal_runs_as_with_asyncio_run() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    with ended_by_signals():
        inside = signal.getsignal(signal.SIGTERM)
        run_until_ended(work)
        assert signal.getsignal(signal.SIGTERM) is inside
    assert done == ["work"]


def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_until_ended(work)
