"""Shutdown signals become an exception in the block."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from reentry.runtime.signals import ENDING, Ended, ended_by_signals


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_the_first_signal_ends_the_block_and_later_ones_do_not_disturb_its_cleanup(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in ENDING]
    closed = []

    @contextmanager
    def closes_slowly() -> Iterator[None]:
        try:
            yield
        finally:
            for each in ENDING:
                signal.raise_signal(each)
                closed.append(each)

    with pytest.raises(Ended), ended_by_signals(), closes_slowly():
        signal.raise_signal(number)
    assert closed == list(ENDING)
    assert [signal.getsignal(each) for each in ENDING] == before


def test_a_signal_during_a_callback_ends_the_event_loop() -> None:
    async def forever() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.sleep(3600)

    with pytest.raises(Ended), ended_by_signals():
        asyncio.run(forever())


def test_a_hangup_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_handlers_stay_unchanged_in_other_threads() -> None:
    def handlers() -> list[object]:
        with ended_by_signals():
            return [signal.getsignal(each) for each in ENDING]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handlers).result() == [signal.getsignal(each) for each in ENDING]
