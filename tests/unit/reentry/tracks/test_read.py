"""Reading files of tracks: good tracks are returned, bad ones are set aside with the reason, and no row is lost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reentry.schema import MEASUREMENT_COLUMNS
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import ReadReport, Repair, Track, fingerprint, read_tracks, write_tracks


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    """Return four labelled tracks of 20 rows; row 20 * k + i of the table is row i of track k."""
    return simulate_trapezoid(TrapezoidConfig(tracks=4, shortest=20, longest=20))


def read(path: Path, *, labelled: bool = True) -> tuple[list[Track], ReadReport]:
    with read_tracks(path, labelled=labelled) as file:
        return list(file), file.report


def cells(table: pd.DataFrame) -> list[list[str]]:
    """Return the lines of a CSV file as lists of cells, with the header first."""
    return [line.split(",") for line in table.to_csv(index=False).splitlines()]


def write_cells(path: Path, lines: list[list[str]]) -> Path:
    path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["flights.csv", "flights.parquet"])
def test_the_tracks_of_a_clean_file_equal_its_rows_bit_for_bit(
    tmp_path: Path, flights: pd.DataFrame, name: str
) -> None:
    path = tmp_path / name
    write_tracks(path, flights)
    with read_tracks(path, labelled=True) as file:
        assert (file.path, file.row_count, file.track_count, len(file)) == (path, 80, 4, 4)
        assert file.report.clean
        assert file.report.summary() == f"{path}: rows 80, good tracks 4"
        for _ in range(2):  # the file can be iterated again
            assert [track.track_id for track in file] == [0, 1, 2, 3]
        for track in file:
            rows = flights[flights["track_id"] == track.track_id]
            np.testing.assert_array_equal(track.measurements, rows[list(MEASUREMENT_COLUMNS)].to_numpy(np.float64))
            np.testing.assert_array_equal(track.timestamp, rows["timestamp"])
            assert track.reentry_phase is not None
            assert track.reentry_phase.dtype == np.int8
            np.testing.assert_array_equal(track.reentry_phase, rows["reentry_phase"])
            np.testing.assert_array_equal(track.rows, rows.index)
            np.testing.assert_array_equal(track.steps, np.arange(20))


def test_columns_may_be_in_any_order_among_others_and_labels_may_be_missing(
    tmp_path: Path, flights: pd.DataFrame
) -> None:
    path = tmp_path / "flights.csv"
    table = flights.drop(columns="reentry_phase").assign(note='"a, b"', operator="x")
    table[table.columns[::-1]].to_csv(path, index=False)
    tracks, report = read(path, labelled=False)
    assert report.clean
    assert tracks[0].reentry_phase is None
    np.testing.assert_array_equal(tracks[1].measurements[:, 3], flights["altitude"][20:40])


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n", "\n   \n"])
def test_line_endings_blank_lines_and_a_byte_order_mark_do_not_change_the_tracks(
    tmp_path: Path, flights: pd.DataFrame, ending: str
) -> None:
    path = tmp_path / "flights.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ending.join(flights.to_csv(index=False).splitlines()).encode())
    tracks, report = read(path)
    assert report.clean
    assert [track.rows[0] for track in tracks] == [0, 20, 40, 60]
    np.testing.assert_array_equal(tracks[3].measurements[:, 3], flights["altitude"][60:])


def test_interleaved_tracks_are_returned_in_order_of_first_appearance_from_memory_and_disk(
    tmp_path: Path, flights: pd.DataFrame
) -> None:
    many = simulate_trapezoid(TrapezoidConfig(tracks=600, shortest=10, longest=12))
    many["track_id"] = 7 * (600 - many["track_id"])
    order = many.groupby("track_id", sort=False).cumcount().argsort(kind="stable")
    path = tmp_path / "many.parquet"
    write_tracks(path, many.iloc[order])
    ids = (7 * np.arange(600, 0, -1)).tolist()
    in_memory = read_tracks(path)
    with read_tracks(path, in_memory_bytes=1) as on_disk:
        for _ in range(2):
            assert [track.track_id for track in on_disk] == ids
        assert on_disk.track_count == 600
        for one, other in zip(in_memory, on_disk, strict=True):
            assert one.track_id == other.track_id
            np.testing.assert_array_equal(one.measurements, other.measurements)
            np.testing.assert_array_equal(one.rows, other.rows)


def test_reading_in_many_chunks_gives_the_same_tracks_and_report(
    tmp_path: Path, flights: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = cells(flights)
    lines[1 + 3][3] = lines[1 + 13][3] = "200"
    for path in (write_cells(tmp_path / "flights.csv", lines), tmp_path / "flights.parquet"):
        if path.suffix == ".parquet":
            table = flights.copy()
            table.loc[[3, 13], "latitude"] = 200.0
            write_tracks(path, table)
        whole, _ = read(path)
        monkeypatch.setattr("reentry.tracks.sources.CHUNK_ROWS", 7)
        pieces, report = read(path)
        assert [t.track_id for t in pieces] == [1, 2, 3]
        for one, other in zip(whole, pieces, strict=True):
            np.testing.assert_array_equal(one.measurements, other.measurements)
            np.testing.assert_array_equal(one.rows, other.rows)
        assert [str(fault) for fault in report.faults] == ["row 3, column latitude: above 90 degrees, got 200 (2 rows)"]
        assert report.write_set_aside(tmp_path / "aside.csv") == 20
        assert pd.read_csv(tmp_path / "aside.csv")["set_aside_row"].tolist() == list(range(20))
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("column", "cell", "problem", "got"),
    [
        ("latitude", "90.5", "above 90 degrees", "90.5"),
        ("latitude", "-91", "below -90 degrees", "-91"),
        ("longitude", "361", "above 360 degrees", "361"),
        ("altitude", "-1e6", "below -100000 m", "-1000000"),
        ("altitude", "high", "not a number", "'high'"),
        ("radiometric_intensity", "inf", "not finite", "inf"),
        ("radiometric_intensity", "-Infinity", "not finite", "-inf"),
        ("timestamp", "", "missing", "nothing"),
        ("timestamp", "-5", "below 0 s", "-5"),
        ("timestamp", "1.7e12", "above 1e+11 s; milliseconds? expected seconds", "1.7e+12"),
        ("timestamp", "2024-11-11 07:00", "not a number", "'2024-11-11 07:00'"),
        ("sensor_id", "", "missing", "nothing"),
        ("sensor_id", "3.5", "not a whole number", "'3.5'"),
        ("sensor_id", "1" + "0" * 19, "does not fit in 64 bits", f"'{10**19}'"),
        ("reentry_phase", "2", "above 1", "2"),
        ("reentry_phase", "0.5", "not a whole number", "0.5"),
        ("reentry_phase", "", "missing", "nothing"),
    ],
)
def test_a_faulty_cell_sets_its_track_aside_with_its_position_and_reason(
    tmp_path: Path, flights: pd.DataFrame, column: str, cell: str, problem: str, got: str
) -> None:
    lines = cells(flights)
    lines[1 + 45][lines[0].index(column)] = cell
    tracks, report = read(write_cells(tmp_path / "flights.csv", lines))
    assert [track.track_id for track in tracks] == [0, 1, 3]
    (fault,) = report.faults
    assert (fault.row, fault.column, fault.track_id) == (45, column, 2)
    assert (fault.problem, fault.got, fault.count) == (problem, got, 1)
    (aside,) = report.set_aside
    assert aside.track_id == 2
    assert aside.rows.tolist() == list(range(40, 60))
    assert not report.clean
    # A bad cell must not change the precision of other cells.
    np.testing.assert_array_equal(tracks[0].measurements[:, 1], flights["latitude"][:20])


def test_all_faults_of_a_file_are_reported_together(tmp_path: Path, flights: pd.DataFrame) -> None:
    lines = cells(flights)
    latitude, altitude = lines[0].index("latitude"), lines[0].index("altitude")
    lines[1 + 2][latitude] = "100"
    lines[1 + 7][latitude] = "101"
    lines[1 + 7][altitude] = "?"
    lines[1 + 25].append("9")
    lines[1 + 70][lines[0].index("track_id")] = "three"
    path = write_cells(tmp_path / "flights.csv", lines)
    tracks, report = read(path)
    assert [track.track_id for track in tracks] == [2, 3]
    assert report.summary().splitlines() == [
        f"{path}: rows 80, good tracks 2",
        "  repaired: missing steps filled 1",
        "  set aside: tracks 2, rows 41",
        "    no track, row 70, column track_id: not a whole number, got 'three'",
        "    track 0, row 2, column latitude: above 90 degrees, got 100 (2 rows)",
        "    track 0, row 7, column altitude: not a number, got '?'",
        "    track 1, row 25: wrong number of fields, got 9 instead of 8",
    ]


def test_every_row_is_set_aside_if_no_track_id_is_readable(tmp_path: Path, flights: pd.DataFrame) -> None:
    flights.assign(track_id="?").to_csv(tmp_path / "flights.csv", index=False)
    for limit in (1, 2**20):
        with read_tracks(tmp_path / "flights.csv", in_memory_bytes=limit) as file:
            assert list(file) == []
            assert [aside.rows.tolist() for aside in file.report.set_aside] == [list(range(80))]


def test_set_aside_rows_are_written_unchanged_and_can_be_corrected_and_read(
    tmp_path: Path, flights: pd.DataFrame
) -> None:
    lines = cells(flights)
    lines[1 + 45][3] = "00912"
    path, aside = write_cells(tmp_path / "flights.csv", lines), tmp_path / "aside.csv"
    _, report = read(path)
    assert report.write_set_aside(aside) == 20
    written = aside.read_text().splitlines()
    assert written[0].split(",") == [*lines[0], "set_aside_row", "set_aside_reason"]
    assert written[1 + 5] == ",".join([*lines[1 + 45], "45", '"row 45, column latitude: above 90 degrees, got 912"'])
    aside.write_text(aside.read_text().replace("00912", lines[1 + 44][3]))
    (corrected,), report = read(aside)
    assert report.clean
    np.testing.assert_array_equal(corrected.measurements[:, 3], flights["altitude"][40:60])


def test_unnamed_columns_are_ignored_and_written_back(tmp_path: Path, flights: pd.DataFrame) -> None:
    path, aside = tmp_path / "flights.csv", tmp_path / "aside.csv"
    lines = [[*line, "", ""] for line in cells(flights)]
    lines[1 + 45][3] = "95"
    tracks, report = read(write_cells(path, lines))
    assert [track.track_id for track in tracks] == [0, 1, 3]
    report.write_set_aside(aside)
    assert aside.read_text().splitlines()[1].startswith(",".join(lines[1 + 40]))


@pytest.mark.parametrize("header_ends", [",note", ",note,", ",note,,", ",note,,,"])
@pytest.mark.parametrize("row_ends", [",", ",,", ",,,", ",,, "])
@pytest.mark.parametrize("rows", [slice(1, 2), slice(1, None), slice(7, 9)], ids=["first", "all", "some"])
def test_empty_fields_at_the_ends_of_lines_do_not_shift_columns(
    tmp_path: Path, flights: pd.DataFrame, header_ends: str, row_ends: str, rows: slice
) -> None:
    lines = flights.to_csv(index=False).splitlines()
    short = [line + "," for line in lines[1:]]
    ragged = [lines[0] + header_ends, *short]
    ragged[rows] = [line + row_ends for line in ragged[rows]]
    (tmp_path / "flights.csv").write_text("\n".join(ragged))
    tracks, report = read(tmp_path / "flights.csv")
    assert report.clean
    assert [track.track_id for track in tracks] == [0, 1, 2, 3]
    np.testing.assert_array_equal(tracks[2].measurements[:, 3], flights["altitude"][40:60])


@pytest.mark.parametrize(
    ("row", "fields"),
    [("{},9", 9), ("{},,9", 10), ("{},NA", 9), ("{},nan,", 10), ("1731308400,1,3,64.1", 4), ("1,1", 2)],
)
@pytest.mark.parametrize("place", [0, 25, 79], ids=["first", "middle", "last"])
def test_a_row_with_more_or_fewer_fields_than_the_header_sets_its_track_aside(
    tmp_path: Path, flights: pd.DataFrame, row: str, fields: int, place: int
) -> None:
    flights = flights.assign(track_id=1)
    lines = flights.to_csv(index=False).splitlines()
    lines[1 + place] = row.format(lines[1 + place])
    (tmp_path / "flights.csv").write_text("\n".join(lines))
    tracks, report = read(tmp_path / "flights.csv", labelled=False)
    assert tracks == []
    assert [str(fault) for fault in report.faults] == [
        f"row {place}: wrong number of fields, got {fields} instead of 8"
    ]


def test_true_and_false_are_labels_but_not_measurements(tmp_path: Path, flights: pd.DataFrame) -> None:
    for spelling in ("True", "false"):
        flights.assign(altitude=spelling).to_csv(tmp_path / "flights.csv", index=False)
        tracks, report = read(tmp_path / "flights.csv")
        assert tracks == []
        assert {fault.problem for fault in report.faults} == {"not a number"}
    flights.assign(reentry_phase=flights["reentry_phase"] == 1).to_csv(tmp_path / "flights.csv", index=False)
    tracks, _ = read(tmp_path / "flights.csv")
    assert tracks[2].reentry_phase is not None
    np.testing.assert_array_equal(tracks[2].reentry_phase, flights["reentry_phase"][40:60])


def test_a_summary_of_many_faults_shows_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    flights = simulate_trapezoid(TrapezoidConfig(tracks=25, shortest=10, longest=10)).assign(latitude=91.0)
    write_tracks(tmp_path / "flights.csv", flights)
    _, report = read(tmp_path / "flights.csv")
    lines = report.summary().splitlines()
    assert lines[1] == "  set aside: tracks 25, rows 250"
    assert lines[2] == "    track 0, row 0, column latitude: above 90 degrees, got 91 (10 rows)"
    assert len(lines) == 23
    assert lines[-1] == "    and more faults: 5"


def test_no_file_is_written_if_no_row_was_set_aside(tmp_path: Path, flights: pd.DataFrame) -> None:
    write_tracks(tmp_path / "flights.csv", flights)
    _, report = read(tmp_path / "flights.csv")
    assert report.write_set_aside(tmp_path / "aside.csv") == 0
    assert not (tmp_path / "aside.csv").exists()


@pytest.mark.parametrize("big", [9_007_199_254_740_993, -(2**63), 2**63 - 1])
def test_ids_of_nineteen_digits_stay_exact_beside_unreadable_ones(
    tmp_path: Path, flights: pd.DataFrame, big: int
) -> None:
    table = flights.astype({"track_id": object})
    table.loc[:19, "track_id"] = str(big)
    table.loc[20:39, "track_id"] = "7.0"
    table.loc[79, "track_id"] = str(2**63)
    write_cells(tmp_path / "flights.csv", cells(table))
    tracks, report = read(tmp_path / "flights.csv")
    assert [track.track_id for track in tracks] == [big, 7, 2, 3]
    assert [(s.track_id, s.rows.tolist()) for s in report.set_aside] == [(None, [79])]


def test_faulty_labels_are_faults_only_when_labels_are_required(tmp_path: Path, flights: pd.DataFrame) -> None:
    lines = cells(flights)
    lines[1 + 5][-1] = "maybe"
    path = write_cells(tmp_path / "flights.csv", lines)
    tracks, report = read(path, labelled=False)
    assert report.clean
    assert tracks[0].reentry_phase is None
    assert tracks[1].reentry_phase is not None
    assert [t.track_id for t in read(path, labelled=True)[0]] == [1, 2, 3]


def test_other_parquet_column_types_give_the_same_tracks(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "flights.parquet"
    flights.astype({"track_id": "float32", "sensor_id": "string", "latitude": "string"}).assign(
        track_id=lambda t: t["track_id"].astype("category"),
        longitude=[Decimal(repr(value)) for value in flights["longitude"]],
        reentry_phase=lambda t: t["reentry_phase"] == 1,
    ).to_parquet(path)
    tracks, report = read(path)
    assert report.clean
    assert [track.track_id for track in tracks] == [0, 1, 2, 3]
    np.testing.assert_array_equal(tracks[2].measurements[:, 1], flights["latitude"][40:60])
    np.testing.assert_array_equal(tracks[2].measurements[:, 2], flights["longitude"][40:60])
    assert tracks[2].reentry_phase is not None
    np.testing.assert_array_equal(tracks[2].reentry_phase, flights["reentry_phase"][40:60])


def test_a_null_in_parquet_is_a_missing_cell(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "flights.parquet"
    table = flights.astype({"track_id": "Int64"})
    table.loc[[30, 31], "altitude"] = None
    table.loc[79, "track_id"] = pd.NA
    table.to_parquet(path)
    tracks, report = read(path)
    assert [track.track_id for track in tracks] == [0, 1, 2, 3]
    assert report.repairs == {Repair.CELLS: 2}
    assert [s.rows.tolist() for s in report.set_aside] == [[79]]


def test_the_fingerprint_depends_only_on_the_content(tmp_path: Path, flights: pd.DataFrame) -> None:
    one, same, other = tmp_path / "one.csv", tmp_path / "same.csv", tmp_path / "other.csv"
    write_tracks(one, flights)
    write_tracks(same, flights)
    write_tracks(other, flights[:-1])
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert len(fingerprint(one)) == 64
