"""The replay buffer keeps the measurements of live tracks in order, within its bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.stream.replay_buffer import ReplayBuffer
from client.stream.track_table import TrackTable, ranks


def rows(*numbers: float) -> np.ndarray:
    """Measurements that differ in their timestamp."""
    return np.array([[number, 1.0, 2.0, 3.0, 4.0, 5.0] for number in numbers])


class Buffer:
    """A buffer with its tracks, by track id."""

    def __init__(self, limit: int) -> None:
        self.tracks = TrackTable()
        self.buffer = ReplayBuffer(self.tracks, limit)

    def append(self, track_ids: list[int], timestamps: list[float], handed: float = 0.0) -> None:
        self.buffer.append(self.tracks.slots_of(np.array(track_ids), 0.0), rows(*timestamps), handed)

    def replay(self, *track_ids: int) -> list[tuple[int, float]]:
        """Track and timestamp of each measurement of a replay."""
        replay = self.buffer.replay_of(self.tracks.slots_of(np.array(track_ids), 0.0))
        return list(zip(self.tracks.track_id[replay.slots].tolist(), replay.rows[:, 0].tolist(), strict=True))


def test_a_replay_has_the_measurements_of_its_tracks_in_order_of_arrival() -> None:
    kept = Buffer(100)
    kept.append([7, 8, 7], [1.0, 2.0, 3.0], handed=5.0)
    kept.append([9, 8], [4.0, 5.0], handed=6.0)
    assert kept.replay(7, 8) == [(7, 1.0), (8, 2.0), (7, 3.0), (8, 5.0)]
    replay = kept.buffer.replay_of(kept.tracks.slots_of(np.array([8]), 0.0))
    assert replay.handed.tolist() == [5.0, 6.0]


def test_a_dropped_track_is_not_replayed_and_its_number_begins_a_new_track() -> None:
    kept = Buffer(100)
    kept.append([7, 8], [1.0, 2.0])
    kept.tracks.drop(kept.tracks.slots_of(np.array([7]), 0.0))
    assert len(kept.tracks) == 1
    kept.append([7], [3.0])
    assert kept.replay(7, 8) == [(8, 2.0), (7, 3.0)]


def test_a_track_that_begins_anew_keeps_only_later_measurements() -> None:
    kept = Buffer(100)
    kept.append([7, 7], [1.0, 2.0])
    kept.buffer.forget(kept.tracks.slots_of(np.array([7]), 0.0))
    kept.append([7], [3.0])
    assert kept.replay(7) == [(7, 3.0)]


def test_a_full_buffer_removes_dropped_tracks_before_it_truncates_others() -> None:
    kept = Buffer(8)
    kept.append([1] * 4, [0.0, 1.0, 2.0, 3.0])
    kept.append([2] * 4, [4.0, 5.0, 6.0, 7.0])
    kept.tracks.drop(kept.tracks.slots_of(np.array([1]), 0.0))
    kept.append([2], [8.0])
    assert kept.replay(2) == [(2, 4.0), (2, 5.0), (2, 6.0), (2, 7.0), (2, 8.0)]
    assert not kept.tracks.truncated.any()


def test_a_full_buffer_truncates_the_oldest_measurements_of_the_longest_tracks() -> None:
    kept = Buffer(16)
    kept.append([1] * 14, list(range(14)))
    kept.append([2, 3], [20.0, 21.0])
    kept.append([2], [22.0])
    assert kept.replay(1) == [(1, float(number)) for number in range(5, 14)]  # 9 + 1 + 1 and the new one are 3/4 of 16
    assert kept.replay(2, 3) == [(2, 20.0), (3, 21.0), (2, 22.0)]
    slots = kept.tracks.slots_of(np.array([1, 2, 3]), 0.0)
    assert kept.tracks.truncated[slots].tolist() == [True, False, False]


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=9), max_size=40), st.integers(9, 60))
def test_a_replay_is_always_the_end_of_each_track(calls: list[list[int]], limit: int) -> None:
    kept, sent, clock = Buffer(limit), {track: [] for track in range(1, 6)}, 0.0
    for call in calls:
        timestamps = [clock + number for number in range(len(call))]
        clock += len(call)
        kept.append(call, timestamps)
        for track, timestamp in zip(call, timestamps, strict=True):
            sent[track].append(timestamp)
    assert len(kept.buffer) <= limit
    for track, timestamps in sent.items():
        if timestamps:
            got = [timestamp for _, timestamp in kept.replay(track)]
            assert got == timestamps[len(timestamps) - len(got) :]
            slot = kept.tracks.slots_of(np.array([track]), 0.0)[0]
            assert (got != timestamps) <= bool(kept.tracks.truncated[slot])
    if sum(map(len, sent.values())) <= limit:
        assert not kept.tracks.truncated.any()


def test_ranks_count_the_earlier_measurements_of_the_same_track() -> None:
    assert ranks(np.array([4, 2, 4, 4, 2, 0], np.int32)).tolist() == [0, 0, 1, 2, 1, 0]
