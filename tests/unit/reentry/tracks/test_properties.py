"""Properties that hold for every file of tracks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import RepairConfig, Track, read_tracks, repair, store, write_tracks
from reentry.tracks.cells import RECORD, Records

FLIGHTS = simulate_trapezoid(TrapezoidConfig(tracks=4, shortest=10, longest=14, seed=1))
ROWS = len(FLIGHTS)

_settings = settings(deadline=None, max_examples=25)


def read(table: pd.DataFrame, *, suffix: str = ".csv", in_memory_bytes: int = 2**28) -> dict[int, Track]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"flights{suffix}")
        write_tracks(path, table)
        with read_tracks(path, labelled=True, in_memory_bytes=in_memory_bytes) as file:
            assert file.report.clean
            return {track.track_id: track for track in file}


def assert_same(tracks: dict[int, Track], others: dict[int, Track]) -> None:
    assert tracks.keys() == others.keys()
    for track_id, track in tracks.items():
        np.testing.assert_array_equal(track.measurements, others[track_id].measurements)
        np.testing.assert_array_equal(track.reentry_phase, others[track_id].reentry_phase)


CLEAN = read(FLIGHTS)


@_settings
@given(order=st.permutations(range(ROWS)), in_memory_bytes=st.sampled_from([1, 2**28]))
def test_the_order_of_the_rows_does_not_change_the_tracks(order: list[int], in_memory_bytes: int) -> None:
    shuffled = read(FLIGHTS.iloc[order], in_memory_bytes=in_memory_bytes)
    assert_same(shuffled, CLEAN)
    for track in shuffled.values():
        # `steps` maps each row of the file to the step with its own timestamp.
        times = FLIGHTS["timestamp"].to_numpy()[order][track.rows]
        np.testing.assert_array_equal(track.timestamp[track.steps], times)


@_settings
@given(times=st.lists(st.integers(1, 3), min_size=ROWS, max_size=ROWS), whole_seconds=st.booleans())
def test_duplicate_rows_do_not_change_the_tracks(times: list[int], whole_seconds: bool) -> None:
    flights = FLIGHTS.assign(timestamp=FLIGHTS["timestamp"] * (2 if whole_seconds else 1))
    repeated = read(flights.loc[flights.index.repeat(times)])
    assert_same(repeated, read(flights))
    assert sum(len(track.rows) for track in repeated.values()) == sum(times)


@_settings
@given(
    altitude=st.lists(st.floats(-1e5, 1e8, allow_nan=False), min_size=ROWS, max_size=ROWS),
    suffix=st.sampled_from([".csv", ".parquet"]),
)
def test_writing_and_reading_preserves_every_bit(altitude: list[float], suffix: str) -> None:
    tracks = read(FLIGHTS.assign(altitude=altitude), suffix=suffix)
    back = np.concatenate([tracks[track_id].measurements[:, 3] for track_id in range(4)])
    np.testing.assert_array_equal(back, altitude)


CELLS = st.sampled_from(
    ["", "nan", "inf", "-1e400", "x", "0", "-7", "95", "1e30", "1731308401", "3.5", "2", " ", "é", "1,2"]
)


@_settings
@given(
    damage=st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 7), CELLS), max_size=12),
    in_memory_bytes=st.sampled_from([1, 2**28]),
    labelled=st.booleans(),
)
def test_every_row_is_in_a_track_or_set_aside_exactly_once(
    damage: list[tuple[int, int, str]], in_memory_bytes: int, labelled: bool
) -> None:
    lines = [line.split(",") for line in FLIGHTS.to_csv(index=False).splitlines()]
    for row, column, cell in damage:
        lines[1 + row][column] = cell
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flights.csv")
        path.write_text("\n".join(",".join(line) for line in lines))
        with read_tracks(path, labelled=labelled, in_memory_bytes=in_memory_bytes) as file:
            good = [row for track in file for row in track.rows.tolist()]
            aside = [row for part in file.report.set_aside for row in part.rows.tolist()]
            assert sorted(good + aside) == list(range(ROWS))
            assert file.report.write_set_aside(Path(folder, "aside.csv")) == len(aside)
            for track in file:
                assert np.isfinite(track.measurements).all()
                assert (np.diff(track.timestamp) >= 0).all()
                assert len(track) >= 2
                assert 0 <= track.steps.min() <= track.steps.max() < len(track)
                assert (track.reentry_phase is not None) or not labelled


def records_of(times: list[float], missing: list[int], labels: list[int]) -> Records:
    records = np.zeros(len(times), dtype=RECORD)
    records["row"] = np.arange(len(times)) + 100
    records["track_id"] = 4
    records["measurement"] = np.random.default_rng(len(times)).uniform(-50.0, 50.0, (len(times), 6))
    records["measurement"][:, 0] = times
    records["measurement"][:, 5] = 1
    for row in missing:
        records["measurement"][row % len(times), 3] = np.nan
    records["reentry_phase"] = np.resize(labels, len(times))
    return records


@settings(deadline=None)
@given(
    steps=st.lists(st.sampled_from([0.5, 0.5, 0.5, 0.51, 0.49, 0.525, 1.0, 1.5, 3.0, 0.0, -0.5]), max_size=12),
    even=st.booleans(),
    missing=st.lists(st.integers(0, 12), max_size=1),
    labels=st.lists(st.integers(-1, 1), min_size=1, max_size=3),
    longest_gap=st.sampled_from([0, 5]),
)
def test_a_track_that_needs_no_repair_is_the_same_with_and_without_the_quick_check(
    steps: list[float], even: bool, missing: list[int], labels: list[int], longest_gap: int
) -> None:
    times = (1.7e9 + np.cumsum([0.0, *(sorted(steps)[-1:] * len(steps) if even else steps)])).tolist()
    found = []
    for quick in (True, False):
        records = records_of(times, missing, labels)
        before = records.copy()
        with pytest.MonkeyPatch.context() as patch:
            if not quick:
                patch.setattr(repair, "_needs_no_repair", lambda _: False)
            try:
                done = repair.repair_track(records, RepairConfig(longest_gap=longest_gap))
            except repair.Unrepairable as error:
                found.append(error.faults)
                continue
        track = done.track
        phase = None if track.reentry_phase is None else track.reentry_phase.tolist()
        steps_and_rows = track.steps.tolist(), track.rows.tolist(), phase
        found.append([track.track_id, track.measurements.tolist(), *steps_and_rows, done.repairs, done.notes])
        track.measurements[:] = -1.0  # the track is a copy: the rows stay as they are
        assert records.tobytes() == before.tobytes()
    assert found[0] == found[1]


@settings(deadline=None)
@given(
    chunks=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=6),
    tracks_per_part=st.sampled_from([1, 2, 256]),
)
def test_stores_return_the_rows_of_each_track_in_order_of_first_appearance(
    chunks: list[list[int]], tracks_per_part: int
) -> None:
    ids = [track_id for chunk in chunks for track_id in chunk]
    expected = {track_id: [row for row, other in enumerate(ids) if other == track_id] for track_id in ids}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "TRACKS_PER_PART", tracks_per_part)
        for rows in (store.MemoryStore(), store.DiskStore()):
            first = 0
            for chunk in chunks:
                records = np.zeros(len(chunk), dtype=RECORD)
                records["row"], records["track_id"] = np.arange(first, first + len(chunk)), chunk
                rows.append(records)
                first += len(chunk)
            found = [(int(each["track_id"][0]), each["row"].tolist()) for each in rows.tracks()]
            rows.close()
            assert found == list(expected.items())
