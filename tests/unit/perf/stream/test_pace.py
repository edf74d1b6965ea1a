"""Due times of an open and of a closed loop."""

from __future__ import annotations

import pytest

from perf.stream.pace import ClosedLoop, OpenLoop


def test_an_open_loop_sends_at_a_constant_rate_whatever_is_unanswered() -> None:
    pace = OpenLoop(100.0, rate=4.0, duration=1.0)
    due = [pace.due(now, in_flight=10**6) for now in (100.0, 100.1, 100.25, 100.5, 100.75, 101.0)]
    assert due == [100.0, None, 100.25, 100.5, 100.75, None]
    assert pace.finished(100.75)


def test_latencies_behind_a_stall_count_from_the_due_times() -> None:
    pace = OpenLoop(0.0, rate=10.0, duration=2.0)
    assert pace.due(0.0, 0) == 0.0
    # A stall keeps the generator from sending for a second: ten requests are due since then, and none is left out.
    late = [pace.due(1.0, 1) for _ in range(11)]
    assert late == [pytest.approx(0.1 * number) for number in range(1, 11)] + [None]
    assert [pytest.approx(1.0 - due) for due in late if due is not None] == [
        0.1 * number for number in range(9, -1, -1)
    ]


def test_an_open_loop_waits_for_the_next_due_time_and_never_for_a_past_one() -> None:
    pace = OpenLoop(0.0, rate=10.0, duration=0.2)
    assert pace.due(0.0, 0) == 0.0
    assert pace.wait(0.04) == pytest.approx(0.06)
    assert pace.wait(7.0) == 0.0
    assert pace.due(7.0, 0) == 0.1
    assert pace.wait(7.0) is None


def test_a_closed_loop_sends_when_a_request_is_answered() -> None:
    pace = ClosedLoop(2, count=3)
    assert [pace.due(0.5, 0), pace.due(0.5, 1), pace.due(0.5, 2)] == [0.5, 0.5, None]
    assert pace.wait(0.5) is None
    assert not pace.finished(0.5)
    assert pace.due(0.9, 1) == 0.9
    assert pace.finished(0.9)
    assert pace.due(1.0, 0) is None


def test_a_closed_loop_ends_at_its_time() -> None:
    pace = ClosedLoop(1, end=2.0)
    assert pace.due(1.9, 0) == 1.9
    assert pace.due(2.0, 0) is None
    assert pace.finished(2.0)
