"""Copies of training flights, whole and cut off, are recognised by some of their rows; other flights are not."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reentry.schema import ALTITUDE, MEASUREMENT_COLUMNS, TIMESTAMP
from reentry.simulation import simulate_file
from reentry.tracks import Track, read_tracks
from tests.training_data import short_tracks
from training.data.leakage import STRETCHES, FlightIndex, sketches

TIME = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)
PROFILES = [("trapezoid", 0), ("ballistic", 0), ("ballistic", 2)]


@cache
def flights(profile: str, severity: int, seed: int) -> list[Track]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flights.parquet"
        simulate_file(path, profile=profile, tracks=20, seed=seed, severity=severity)
        with read_tracks(path, labelled=True) as file:
            return list(file)


@cache
def known_from(profile: str, severity: int) -> FlightIndex:
    return FlightIndex(sketches(flights(profile, severity, 1)))


def rows(track: Track, chosen: slice) -> Track:
    return replace(track, measurements=track.measurements[chosen])


def starting(at: float, track: Track) -> Track:
    """With another clock."""
    measurements = track.measurements.copy()
    measurements[:, TIME] += at
    return replace(track, measurements=measurements)


@pytest.mark.parametrize(("profile", "severity"), PROFILES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_contiguous_half_of_a_training_flight_is_recognised(
    profile: str, severity: int, data: st.DataObject
) -> None:
    trained = flights(profile, severity, 1)
    known = known_from(profile, severity)
    track = data.draw(st.sampled_from(trained))
    half = -(-len(track) // 2)
    start = data.draw(st.integers(0, len(track) - half))
    assert known.hold(starting(data.draw(st.sampled_from([0.0, 0.3])), rows(track, slice(start, start + half))))


@settings(deadline=None, max_examples=100)
@given(data=st.data(), steps=st.integers(4, 60))
def test_any_contiguous_half_of_a_short_flight_is_recognised(data: st.DataObject, steps: int) -> None:
    track = rows(flights("ballistic", 2, 1)[0], slice(0, steps))
    half = -(-steps // 2)
    start = data.draw(st.integers(0, steps - half))
    assert FlightIndex(sketches([track])).hold(rows(track, slice(start, start + half)))


@pytest.mark.parametrize(("profile", "severity"), PROFILES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_flights_that_did_not_train_are_not_recognised_nor_any_half_of_them(
    profile: str, severity: int, data: st.DataObject
) -> None:
    known = known_from(profile, severity)
    track = data.draw(st.sampled_from(flights(profile, severity, 2)))
    half = -(-len(track) // 2)
    start = data.draw(st.integers(0, len(track) - half))
    assert not known.hold(track)
    assert not known.hold(rows(track, slice(start, start + half)))


def test_of_unseen_flights_of_every_kind_none_is_recognised() -> None:
    known = FlightIndex(sketches(track for kind in PROFILES for track in flights(*kind, 1)))
    assert not any(known.hold(track) for kind in PROFILES for track in flights(*kind, 2))


def test_every_second_row_and_a_longer_recording_are_recognised_a_tenth_is_not(tmp_path: Path) -> None:
    track, other = short_tracks(tmp_path, tracks=2)
    known = FlightIndex(sketches([track]))
    assert known.hold(rows(track, slice(None, None, 2)))
    assert known.hold(replace(track, measurements=np.concatenate([other.measurements, track.measurements])))
    assert not known.hold(rows(track, slice(0, len(track) // 10)))


def test_flights_that_share_a_row_on_the_launch_pad_stay_apart(tmp_path: Path) -> None:
    track, other = short_tracks(tmp_path, tracks=2)
    waiting = [replace(t, measurements=np.concatenate([np.zeros((500, 6)), t.measurements])) for t in (track, other)]
    known = FlightIndex(sketches(waiting[:1]))
    assert known.hold(waiting[0])
    assert not known.hold(waiting[1])


def test_a_flight_takes_64_bytes_and_none_knows_nothing(tmp_path: Path) -> None:
    tracks = short_tracks(tmp_path)
    sketched = sketches(tracks)
    assert (sketched.shape, sketched.dtype) == ((10, STRETCHES), torch.int32)
    assert sketched.element_size() * sketched.shape[1] == 64
    assert not FlightIndex(sketches([])).hold(tracks[0])


def test_the_hashes_are_those_that_checkpoints_keep() -> None:
    measurements = np.zeros((3, len(MEASUREMENT_COLUMNS)))
    measurements[:, MEASUREMENT_COLUMNS.index(ALTITUDE.name)] = [0.0, 1.0, -0.0]
    track = Track(track_id=1, measurements=measurements, reentry_phase=None, rows=np.arange(3), steps=np.arange(3))
    first, second, third = sketches([track]).numpy().view(np.uint32)[0, [0, 8, 15]].tolist()
    assert (first, second, third) == (0x2130748A, 0xF8EA6E2C, 0x2130748A)
