"""Fingerprints of tracks and flights, and the recognition of copies and parts of training flights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
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
from training.data.identity import STRETCHES, DataIdentity, FlightIndex

TIME = MEASUREMENT_COLUMNS.index(TIMESTAMP.name)
PROFILES = [("trapezoid", 0), ("ballistic", 0), ("ballistic", 2)]


@cache
def flights(profile: str, severity: int, seed: int) -> list[Track]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flights.parquet"
        simulate_file(path, profile=profile, tracks=20, seed=seed, severity=severity)
        with read_tracks(path, labelled=True) as file:
            return list(file)


def sketches(tracks: Iterable[Track]) -> torch.Tensor:
    return DataIdentity.of(tracks).sketches


@cache
def known_from(profile: str, severity: int) -> FlightIndex:
    return FlightIndex(sketches(flights(profile, severity, 1)))


def rows(track: Track, chosen: slice) -> Track:
    return replace(track, measurements=track.measurements[chosen])


def starting(at: float, track: Track) -> Track:
    """Copy of a track with another clock."""
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
    assert known.recognises(starting(data.draw(st.sampled_from([0.0, 0.3])), rows(track, slice(start, start + half))))


@settings(deadline=None, max_examples=100)
@given(data=st.data(), steps=st.integers(4, 60))
def test_any_contiguous_half_of_a_short_flight_is_recognised(data: st.DataObject, steps: int) -> None:
    track = rows(flights("ballistic", 2, 1)[0], slice(0, steps))
    half = -(-steps // 2)
    start = data.draw(st.integers(0, steps - half))
    assert FlightIndex(sketches([track])).recognises(rows(track, slice(start, start + half)))


@pytest.mark.parametrize(("profile", "severity"), PROFILES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_unseen_flights_and_halves_of_them_are_not_recognised(profile: str, severity: int, data: st.DataObject) -> None:
    known = known_from(profile, severity)
    track = data.draw(st.sampled_from(flights(profile, severity, 2)))
    half = -(-len(track) // 2)
    start = data.draw(st.integers(0, len(track) - half))
    assert not known.recognises(track)
    assert not known.recognises(rows(track, slice(start, start + half)))


def test_no_unseen_flight_is_recognised_among_flights_of_all_kinds() -> None:
    known = FlightIndex(sketches(track for kind in PROFILES for track in flights(*kind, 1)))
    assert not any(known.recognises(track) for kind in PROFILES for track in flights(*kind, 2))


def test_a_thinned_and_a_longer_recording_are_recognised_and_a_tenth_of_a_flight_is_not(tmp_path: Path) -> None:
    track, other = short_tracks(tmp_path, tracks=2)
    known = FlightIndex(sketches([track]))
    assert known.recognises(rows(track, slice(None, None, 2)))
    assert known.recognises(replace(track, measurements=np.concatenate([other.measurements, track.measurements])))
    assert not known.recognises(rows(track, slice(0, len(track) // 10)))


def test_flights_that_share_only_a_row_on_the_launch_pad_are_different_flights(tmp_path: Path) -> None:
    track, other = short_tracks(tmp_path, tracks=2)
    waiting = [replace(t, measurements=np.concatenate([np.zeros((500, 6)), t.measurements])) for t in (track, other)]
    known = FlightIndex(sketches(waiting[:1]))
    assert known.recognises(waiting[0])
    assert not known.recognises(waiting[1])


def test_a_sketch_takes_64_bytes_and_an_empty_index_recognises_no_track(tmp_path: Path) -> None:
    tracks = short_tracks(tmp_path)
    sketched = sketches(tracks)
    assert (sketched.shape, sketched.dtype) == ((10, STRETCHES), torch.int32)
    assert sketched.element_size() * sketched.shape[1] == 64
    assert not FlightIndex(sketches([])).recognises(tracks[0])


def test_row_hashes_equal_those_in_stored_checkpoints() -> None:
    measurements = np.zeros((3, len(MEASUREMENT_COLUMNS)))
    measurements[:, MEASUREMENT_COLUMNS.index(ALTITUDE.name)] = [0.0, 1.0, -0.0]
    track = Track(track_id=1, measurements=measurements, reentry_phase=None, rows=np.arange(3), steps=np.arange(3))
    first, second, third = sketches([track]).numpy().view(np.uint32)[0, [0, 8, 15]].tolist()
    assert (first, second, third) == (0x2130748A, 0xF8EA6E2C, 0x2130748A)


def test_fingerprints_equal_those_in_stored_checkpoints() -> None:
    measurements = np.zeros((3, len(MEASUREMENT_COLUMNS)))
    measurements[:, TIME] = [10.0, 10.5, 11.0]
    measurements[:, MEASUREMENT_COLUMNS.index(ALTITUDE.name)] = [0.0, 1.5, 3.25]
    track = Track(track_id=7, measurements=measurements, reentry_phase=None, rows=np.arange(3), steps=np.arange(3))
    identity = DataIdentity.of([track])
    assert identity.tracks_fingerprint == "ca61ca0a511483633e9aa0261e94e466bb9ffec7ec28ca26cc1f05824f92c4cf"
    assert identity.flight_fingerprints == ("23efdad7e43fe482",)
    assert identity.track_ids == (7,)


def test_the_tracks_fingerprint_depends_on_ids_and_not_on_order_and_the_flight_fingerprint_on_neither(
    tmp_path: Path,
) -> None:
    one, two = short_tracks(tmp_path, tracks=2)
    before, swapped = DataIdentity.of([one, two]), DataIdentity.of([two, one])
    renamed = DataIdentity.of([replace(one, track_id=99), two])
    assert before.tracks_fingerprint == swapped.tracks_fingerprint != renamed.tracks_fingerprint
    assert before.flight_fingerprints == swapped.flight_fingerprints[::-1] == renamed.flight_fingerprints
    reversed_rows = replace(one, measurements=one.measurements[::-1])
    assert DataIdentity.of([reversed_rows, two]).tracks_fingerprint == before.tracks_fingerprint
    assert DataIdentity.of([one, starting(1.0, two)]).tracks_fingerprint != before.tracks_fingerprint
