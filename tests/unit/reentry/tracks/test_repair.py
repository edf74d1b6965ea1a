"""Repairs of one track, compared with its original rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from reentry.errors import ConfigError
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import Note, ReadReport, Repair, RepairConfig, Track, read_tracks

TIME, LATITUDE, LONGITUDE, ALTITUDE, INTENSITY, SENSOR = range(6)


@pytest.fixture
def flight() -> pd.DataFrame:
    """Return one labelled track of 40 rows, 0.5 s apart, that starts at a whole second."""
    return simulate_trapezoid(TrapezoidConfig(tracks=1, shortest=40, longest=40, seed=2))


def read(table: pd.DataFrame, folder: Path, config: RepairConfig | None = None) -> tuple[list[Track], ReadReport]:
    path = folder / "flight.csv"
    table.to_csv(path, index=False)
    with read_tracks(path, labelled=True, config=config) as file:
        return list(file), file.report


def repaired(table: pd.DataFrame, folder: Path, config: RepairConfig | None = None) -> tuple[Track, ReadReport]:
    (track,), report = read(table, folder, config)
    assert sorted(track.rows.tolist()) == list(range(len(table)))
    assert len(track.steps) == len(track.rows)
    assert np.isfinite(track.measurements).all()
    return track, report


def reason(table: pd.DataFrame, folder: Path, config: RepairConfig | None = None) -> str:
    tracks, report = read(table, folder, config)
    assert tracks == []
    (aside,) = report.set_aside
    assert aside.rows.tolist() == list(range(len(table)))
    return aside.reason


def values(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    names = ["timestamp", "latitude", "longitude", "altitude", "radiometric_intensity", "sensor_id"]
    return table[names].to_numpy(np.float64)


def test_rows_out_of_order_are_sorted_by_time_and_counted(tmp_path: Path, flight: pd.DataFrame) -> None:
    order = [0, 1, 4, 2, 3, *range(5, 40)]
    track, report = repaired(flight.iloc[order], tmp_path)
    np.testing.assert_array_equal(track.measurements, values(flight))
    assert track.rows[:6].tolist() == [0, 1, 3, 4, 2, 5]
    assert track.steps.tolist() == list(range(40))
    assert report.repairs == {Repair.SORTED: 2}


def test_duplicate_rows_are_dropped_and_share_a_step(tmp_path: Path, flight: pd.DataFrame) -> None:
    order = [0, 1, 1, 2, *range(3, 40), 5]
    track, report = repaired(flight.iloc[order], tmp_path)
    np.testing.assert_array_equal(track.measurements, values(flight))
    assert track.rows[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 41, 7]
    step_of = dict(zip(track.rows.tolist(), track.steps.tolist(), strict=True))
    assert [step_of[row] for row in range(42)] == [order[row] for row in range(42)]
    assert report.repairs == {Repair.REPEATED: 2, Repair.SORTED: 1}


@pytest.mark.parametrize("cut", [np.floor, np.ceil], ids=["truncated", "rounded up"])
@pytest.mark.parametrize("rows", [39, 40])
def test_timestamps_truncated_to_whole_seconds_are_restored_to_even_steps(
    tmp_path: Path, flight: pd.DataFrame, cut: np.ufunc, rows: int
) -> None:
    flight = flight[:rows]
    track, report = repaired(flight.assign(timestamp=cut(flight["timestamp"])), tmp_path)
    np.testing.assert_array_equal(track.measurements, values(flight))
    assert track.steps.tolist() == list(range(rows))
    assert report.repairs == {Repair.RETIMED: rows}


def test_truncated_timestamps_of_duplicate_rows_are_restored(tmp_path: Path, flight: pd.DataFrame) -> None:
    cut = flight.assign(timestamp=np.floor(flight["timestamp"]))
    track, report = repaired(pd.concat([cut, cut]), tmp_path)
    np.testing.assert_array_equal(track.measurements, values(flight))
    assert report.repairs[Repair.RETIMED] == 40
    assert report.repairs[Repair.REPEATED] == 40
    assert sorted(track.steps.tolist()) == sorted([*range(40), *range(40)])


def test_equal_measurements_of_a_target_at_rest_are_not_duplicates_if_timestamps_are_truncated(
    tmp_path: Path, flight: pd.DataFrame
) -> None:
    columns = ["latitude", "longitude", "altitude", "radiometric_intensity"]
    flight.loc[:9, columns] = flight.loc[0, columns].to_numpy()
    track, report = repaired(flight.assign(timestamp=np.floor(flight["timestamp"])), tmp_path)
    np.testing.assert_array_equal(track.timestamp, flight["timestamp"])
    assert report.repairs == {Repair.RETIMED: 40}


def test_whole_second_timestamps_of_duplicated_rows_are_kept(tmp_path: Path, flight: pd.DataFrame) -> None:
    slow = flight[::2]
    track, report = repaired(slow.loc[slow.index.repeat(2)], tmp_path)
    np.testing.assert_array_equal(track.timestamp, slow["timestamp"])
    assert report.repairs == {Repair.REPEATED: 20}


@pytest.mark.parametrize("drop", [7, 8])
def test_unevenly_spread_whole_second_timestamps_are_reported_as_a_conflict(
    tmp_path: Path, flight: pd.DataFrame, drop: int
) -> None:
    cut = flight.assign(timestamp=np.floor(flight["timestamp"])).drop(index=drop)
    assert "one sensor has two different rows with the same timestamp" in reason(cut, tmp_path)


def test_two_different_rows_of_one_sensor_with_one_timestamp_set_the_track_aside(
    tmp_path: Path, flight: pd.DataFrame
) -> None:
    flight.loc[11, "timestamp"] = flight.loc[10, "timestamp"]
    assert reason(flight, tmp_path) == (
        "row 11, column timestamp: one sensor has two different rows with the same timestamp, got 1731308405"
    )


def test_two_sensors_may_measure_at_the_same_time_in_any_order(tmp_path: Path, flight: pd.DataFrame) -> None:
    other = flight.assign(sensor_id=5, altitude=flight["altitude"] + 1)
    both = pd.concat([flight, other]).sort_values(["timestamp", "sensor_id"], ascending=[True, False], kind="stable")
    track, report = repaired(both, tmp_path)
    assert len(track) == 80
    np.testing.assert_array_equal(track.timestamp, np.repeat(flight["timestamp"], 2))
    assert track.measurements[:, SENSOR].tolist() == [3, 5] * 40
    assert report.repairs == {}


@pytest.mark.parametrize("missing", [1, 3, 5])
def test_a_short_gap_is_filled_by_linear_interpolation(tmp_path: Path, flight: pd.DataFrame, missing: int) -> None:
    gap = range(30, 30 + missing)
    track, report = repaired(flight.drop(index=list(gap)), tmp_path)
    assert report.repairs == {Repair.STEPS: missing}
    np.testing.assert_array_equal(track.timestamp, flight["timestamp"])
    expected = values(flight)
    for column in (LATITUDE, LONGITUDE, ALTITUDE, INTENSITY):
        line = np.linspace(expected[29, column], expected[30 + missing, column], missing + 2)
        np.testing.assert_allclose(track.measurements[29 : 31 + missing, column], line, rtol=1e-12)
    kept = [i for i in range(40) if i not in gap]
    np.testing.assert_array_equal(track.measurements[kept], expected[kept])
    assert track.steps.tolist() == kept
    assert track.reentry_phase is not None
    # Rows from 34 on are labelled 1; an interpolated step takes the label of the row before it.
    assert track.reentry_phase.tolist() == [0] * max(34, 30 + missing) + [1] * (40 - max(34, 30 + missing))


def test_a_long_gap_is_left_unfilled_and_noted(tmp_path: Path, flight: pd.DataFrame) -> None:
    rest = flight.drop(index=[*range(10, 16), 20])
    track, report = repaired(rest, tmp_path)
    assert report.repairs == {Repair.STEPS: 1}
    assert report.notes == {Note.LONG_GAP: 1}
    assert "note: long time gaps left unfilled 1" in report.summary()
    assert np.diff(track.timestamp).max() == 3.5
    assert len(track) == 34


def test_a_track_without_an_even_step_is_not_filled(tmp_path: Path, flight: pd.DataFrame) -> None:
    uneven = flight.assign(timestamp=flight["timestamp"] + np.tile([0.0, 0.1, 0.0, -0.2], 10)).drop(index=20)
    track, report = repaired(uneven, tmp_path)
    assert len(track) == 39
    assert report.repairs == {}


@pytest.mark.parametrize("column", ["latitude", "longitude", "altitude", "radiometric_intensity"])
def test_missing_cells_are_interpolated_in_time_between_their_neighbours(
    tmp_path: Path, flight: pd.DataFrame, column: str
) -> None:
    truth = flight[column].to_numpy(copy=True)
    flight.loc[[0, 1, 10, 11, 12, 20, 39], column] = np.nan
    track, report = repaired(flight, tmp_path)
    assert report.repairs == {Repair.CELLS: 7}
    position = {"latitude": LATITUDE, "longitude": LONGITUDE, "altitude": ALTITUDE}.get(column, INTENSITY)
    filled = track.measurements[:, position]
    np.testing.assert_allclose(filled[9:14], np.linspace(truth[9], truth[13], 5), rtol=1e-12)
    assert filled[20] == pytest.approx((truth[19] + truth[21]) / 2)
    assert filled[:2].tolist() == [truth[2], truth[2]]
    assert filled[39] == truth[38]
    untouched = [*range(2, 10), *range(13, 20), *range(21, 39)]
    np.testing.assert_array_equal(filled[untouched], truth[untouched])


def test_too_many_consecutive_missing_cells_set_the_track_aside(tmp_path: Path, flight: pd.DataFrame) -> None:
    flight.loc[[3, *range(10, 16)], "latitude"] = np.nan
    flight.loc[20:29, "altitude"] = np.nan
    assert reason(flight, tmp_path) == (
        "row 10, column latitude: more than 5 consecutive cells are missing, got 6 (7 rows); "
        "row 20, column altitude: more than 5 consecutive cells are missing, got 10 (10 rows)"
    )
    track, report = repaired(flight, tmp_path, RepairConfig(longest_gap=10))
    assert report.repairs == {Repair.CELLS: 17}
    assert len(track) == 40


def test_an_entirely_missing_column_sets_even_a_short_track_aside(tmp_path: Path, flight: pd.DataFrame) -> None:
    flight.loc[:, "altitude"] = np.nan
    assert "column altitude: all cells are missing" in reason(flight[:3], tmp_path)


def test_a_longest_gap_of_zero_disables_interpolation(tmp_path: Path, flight: pd.DataFrame) -> None:
    track, report = repaired(flight.drop(index=5), tmp_path, RepairConfig(longest_gap=0))
    assert len(track) == 39
    assert report.notes == {Note.LONG_GAP: 1}
    flight.loc[5, "altitude"] = np.nan
    assert "more than 0 consecutive cells" in reason(flight, tmp_path, RepairConfig(longest_gap=0))
    with pytest.raises(ConfigError, match="longest_gap out of range") as error:
        RepairConfig(longest_gap=-1)
    assert (error.value.expected, error.value.got) == ("at least 0 steps", "-1")


@pytest.mark.parametrize(("start", "across"), [(178.5, -180.0), (358.5, 0.0)])
def test_longitude_is_interpolated_along_the_shorter_arc(
    tmp_path: Path, flight: pd.DataFrame, start: float, across: float
) -> None:
    turn = np.arange(40) * 0.5 + start
    flight["longitude"] = np.where(turn >= across + 360.0, turn - 360.0, turn)
    truth = turn.copy()
    flight.loc[[2, 3, 20], "longitude"] = np.nan
    track, _ = repaired(flight.drop(index=[4, 5]), tmp_path)
    difference = (track.measurements[:, LONGITUDE] - truth + 180.0) % 360.0 - 180.0
    np.testing.assert_allclose(difference, 0.0, atol=1e-9)
    assert np.abs(track.measurements[:, LONGITUDE]).max() <= 360.0


@pytest.mark.parametrize("rows", [[0], [0, 0, 0]])
def test_a_track_of_fewer_than_two_distinct_rows_is_set_aside(
    tmp_path: Path, flight: pd.DataFrame, rows: list[int]
) -> None:
    assert reason(flight.iloc[rows], tmp_path) == "row 0: fewer than 2 rows, got 1"


def test_two_rows_suffice_for_a_track(tmp_path: Path, flight: pd.DataFrame) -> None:
    track, report = repaired(flight[:2], tmp_path)
    assert len(track) == 2
    assert report.repairs == {}
