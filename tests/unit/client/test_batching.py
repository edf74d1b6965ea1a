"""Tracks of similar length share a request, and every track is in exactly one request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.batching import FREE_PADDING, BatchConfig, RequestBatch, batches
from reentry.errors import ConfigError
from reentry.tracks import Track


def track_of(length: int, track_id: int = 0) -> Track:
    measurements = np.arange(length * 6, dtype=np.float64).reshape(length, 6) + 1000 * track_id
    steps = np.arange(length)
    return Track(track_id=track_id, measurements=measurements, reentry_phase=None, rows=steps, steps=steps)


@given(
    lengths=st.lists(st.integers(2, 3000), max_size=60),
    tracks=st.integers(1, 16),
    steps=st.integers(1, 20_000),
    padding=st.floats(0.0, 1.0),
    window=st.integers(1, 50_000),
)
def test_every_track_is_in_exactly_one_request_and_padding_is_bounded(
    lengths: list[int], tracks: int, steps: int, padding: float, window: int
) -> None:
    config = BatchConfig(tracks=tracks, steps=steps, padding=padding, window=window)
    made = list(batches((track_of(length, index) for index, length in enumerate(lengths)), config))
    assert sorted(track.track_id for batch in made for track in batch.tracks) == list(range(len(lengths)))
    for batch in made:
        assert 1 <= len(batch) <= tracks
        assert len(batch) == 1 or len(batch) * batch.longest <= steps
        shortest = min(len(track) for track in batch.tracks)
        assert batch.longest - shortest <= max(padding * batch.longest, FREE_PADDING)


def test_only_one_window_of_tracks_is_read_before_the_first_request() -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield track_of(100, taken)

    first = next(batches(endless(), BatchConfig(window=1000)))
    assert len(first) == 10
    assert taken == 10


def test_a_shorter_track_is_padded_with_its_last_row() -> None:
    long, short = track_of(5, 7), track_of(2, 8)
    batch = RequestBatch((long, short))
    measurements = batch.measurements()
    assert measurements.shape == (2, 5, 6)
    np.testing.assert_array_equal(measurements[0], long.measurements)
    np.testing.assert_array_equal(measurements[1, :2], short.measurements)
    np.testing.assert_array_equal(measurements[1, 2:], np.repeat(short.measurements[-1:], 3, axis=0))
    np.testing.assert_array_equal(batch.lengths(), [[5], [2]])
    np.testing.assert_array_equal(batch.track_ids(), [[7], [8]])
    assert (batch.lengths().dtype, batch.track_ids().dtype) == (np.int32, np.int64)


def test_the_singles_of_a_batch_are_its_tracks_in_order() -> None:
    batch = RequestBatch((track_of(3, 1), track_of(2, 2)))
    assert [[track.track_id for track in single.tracks] for single in batch.singles()] == [[1], [2]]


@pytest.mark.parametrize(
    "wrong", [{"tracks": 0}, {"steps": 0}, {"window": 0}, {"padding": -0.1}, {"padding": 1.5}], ids=str
)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as error:
        replace(BatchConfig(), **wrong)
    assert error.value.expected is not None
