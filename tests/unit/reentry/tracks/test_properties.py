"""Properties that hold for every file of tracks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import Track, read_tracks, write_tracks

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
