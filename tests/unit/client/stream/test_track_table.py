"""The table of live tracks finds the slot of each track, grows, and drops tracks."""

from __future__ import annotations

import numpy as np

from client.stream.track_table import TrackTable


def test_a_track_keeps_its_slot_among_thousands() -> None:
    table, rng = TrackTable(), np.random.default_rng(0)
    track_ids = rng.permutation(np.arange(-2_000, 3_000))
    slots = {}
    for part in np.array_split(track_ids, 17):
        slots.update(zip(part.tolist(), table.slots_of(part, 0.0).tolist(), strict=True))
    assert len(set(slots.values())) == len(table) == table.begun == 5_000
    again = table.slots_of(track_ids, 0.0)
    assert again.tolist() == [slots[track] for track in track_ids.tolist()]
    np.testing.assert_array_equal(table.track_id[again], track_ids)


def test_the_slot_of_a_dropped_track_is_used_again_only_when_no_buffer_refers_to_it() -> None:
    table = TrackTable()
    slots = table.slots_of(np.array([1, 2]), 0.0)
    table.accepted[slots[0]] = 3
    table.drop(slots)
    assert len(table) == 0
    new = table.slots_of(np.arange(10, 72), 0.0)
    assert slots[0] not in new
    assert slots[1] in new
    table.release()
    assert slots[0] in table.slots_of(np.array([100, 101]), 0.0)
    assert table.accepted[slots[0]] == 0


def test_new_tracks_beyond_the_limit_are_found() -> None:
    table = TrackTable()
    table.slots_of(np.arange(5), 0.0)
    assert table.beyond(np.array([3, 9, 8, 9, 7]), 7).tolist() == [False, True, False, True, False]
    assert not table.beyond(np.array([3, 4, 0]), 5).any()


def test_the_latest_phase_of_a_track_is_known_until_it_is_dropped() -> None:
    table = TrackTable()
    slots = table.slots_of(np.array([3, 5]), 0.0)
    table.phase[slots], table.probability[slots] = [0, 1], [0.25, 0.75]
    assert table.latest(3) == ("flight", 0.25)
    assert table.latest(5) == ("reentry", 0.75)
    assert table.in_reentry == 1
    assert table.latest(4)[0] == "dropped"
