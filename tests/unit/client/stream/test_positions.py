"""The latest positions of the tracks of a feed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.stream import positions as positions_module
from client.stream.alert import Answers
from client.stream.positions import Positions
from reentry.schema import MEASUREMENT_COLUMNS


def scan(track_ids: list[int], time: float, **given: Any) -> tuple[Any, Any, Answers]:
    """Measurements of some tracks at one time, and their answers."""
    rows = np.zeros((len(track_ids), len(MEASUREMENT_COLUMNS)))
    for name, value in {"timestamp": time, "latitude": 10.0, "longitude": 20.0, "altitude": 3e4}.items():
        rows[:, MEASUREMENT_COLUMNS.index(name)] = value
    answers = Answers.empty(len(track_ids))
    answers.probability[:] = 0.123456
    answers.phase[:] = 0
    answers.accepted[:] = 1
    answers.model_version = 3
    for name, value in given.items():
        setattr(answers, name, np.asarray(value))
    return np.array(track_ids), rows, answers


def test_the_latest_position_of_each_track_is_given_once() -> None:
    positions = Positions()
    assert not positions
    positions.add(*scan([7, 5], 1.0))
    positions.add(*scan([5, 9], 2.0, onset_timestamp=[1.5, -1.0], phase=[1, 0]))
    assert positions
    rest = {"latitude": 10.0, "longitude": 20.0, "altitude": 3e4, "probability": 0.1235, "model_version": 3}
    assert positions.take() == [
        {"track_id": 5, "timestamp": 2.0, "onset_timestamp": 1.5, "phase": 1, **rest},
        {"track_id": 7, "timestamp": 1.0, "onset_timestamp": None, "phase": 0, **rest},
        {"track_id": 9, "timestamp": 2.0, "onset_timestamp": None, "phase": 0, **rest},
    ]
    assert not positions
    assert positions.take() == []


def test_measurements_that_were_not_accepted_are_left_out() -> None:
    positions = Positions()
    positions.add(*scan([1, 2], 1.0, accepted=[0, 1]))
    positions.add(*scan([1], 2.0, accepted=[0]))
    assert [each["track_id"] for each in positions.take()] == [2]


def test_many_tracks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions_module, "MOST", 3)
    positions = Positions()
    turns = []
    for time in range(4):
        positions.add(*scan([1, 2, 3, 4, 5], float(time)))
        turns.append([each["track_id"] for each in positions.take()])
    assert turns == [[1, 2, 3], [4, 5, 1], [2, 3, 4], [5, 1, 2]]


def test_positions_that_nobody_takes_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions_module, "_PENDING", 100)
    monkeypatch.setattr(positions_module, "_TRACKS", 40)
    positions = Positions()
    for time in range(200):
        positions.add(*scan([3 * time, 3 * time + 1, 3 * time + 2], float(time)))
        assert sum(map(len, positions._parts)) <= 100
    assert [each["track_id"] for each in positions.take()] == list(range(560, 600))
