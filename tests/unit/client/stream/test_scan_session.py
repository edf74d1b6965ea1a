"""A server that lost a live track of a feed gets the whole feed again; one that dropped a silent track does not."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from client.stream.scan_session import ScanSession, _grouped, _Scan
from client.stream.session import SequenceLostError
from client.stream.state import FeedState
from reentry.schema import LARGEST_SCAN
from tests.unit.client.stream.test_state import outputs, rows

IDLE = 60.0


def answer_as_if_begun(silence: float) -> FeedState:
    """A track of two measurements, whose second answer says that the server did not know it.

    No server is asked: a real one does not lose a single track of a feed.
    """

    async def answered() -> FeedState:
        state = FeedState("radar", buffer=100, on_alert=None)
        nobody: Any = None
        session = ScanSession(state, nobody, timeout=30.0, idle=IDLE, reason="lost_server")
        for timestamp, begun in ((5.0, 1), (6.0, 1)):
            state.tracks.last_seen[:] -= silence
            work = state.hand(np.array([7]), rows(timestamp))
            session._take(_Scan(works=[work]), outputs([1]) | {"started": np.array([begun], np.uint8)})
        return state

    return asyncio.run(answered())


def test_a_track_that_the_server_lost_is_an_error_that_leads_to_a_replay() -> None:
    with pytest.raises(SequenceLostError, match="lost 1 live tracks") as lost:
        answer_as_if_begun(0.5 * IDLE)
    assert lost.value.reason == "restarted"


def test_a_track_that_the_server_dropped_after_a_silence_begins_anew() -> None:
    state = answer_as_if_begun(0.95 * IDLE)
    replay = state.replay_of(state.tracks.live_slots, "lost_server")
    assert replay.rows[:, 0].tolist() == [6.0]
    assert state.statistics.alerts == 2


def test_calls_that_wait_together_are_joined_up_to_the_largest_scan() -> None:
    async def handed() -> list[list[int]]:
        state = FeedState("radar", buffer=100, on_alert=None)
        sizes = (1, LARGEST_SCAN - 1, 1, LARGEST_SCAN, 5, 6)
        works = [state.hand(np.arange(size), np.zeros((size, 6))) for size in sizes]
        return [[len(work.slots) for work in group] for group in _grouped(works)]

    assert asyncio.run(handed()) == [[1, LARGEST_SCAN - 1], [1], [LARGEST_SCAN], [5, 6]]
