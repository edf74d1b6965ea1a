"""Unusable files of tracks are refused with a one-line reason, and files are written completely or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from reentry.errors import TrackFileError
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import csv_records, fingerprint, origin_of, read_tracks, write_tracks
from reentry.tracks.csv_records import BYTE_ORDER_MARK
from reentry.tracks.sources import row_texts
from reentry.tracks.write import ORIGIN_KEY
from tests.full_disk import room_for

HEADER = "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity"
ROW = "1731308400,0,3,64.1,-21.9,10.0,0.01"


@pytest.fixture
def flights() -> pd.DataFrame:
    return simulate_trapezoid(TrapezoidConfig(tracks=2, shortest=10, longest=10))


@pytest.mark.parametrize(
    ("content", "problem", "fields"),
    [
        ("", "empty file", {}),
        ("\n \n", "no columns", {"expected": "a header and rows of tracks"}),
        (HEADER, "no rows", {}),
        (HEADER + "\n\n", "no rows", {}),
        (f"{HEADER}\n{ROW}\n".replace(",", ";"), "wrong delimiter", {"expected": "commas", "got": "a semicolon"}),
        (f"{HEADER}\n{ROW}\n".replace(",", "\t"), "wrong delimiter", {"got": "a tab"}),
        (f"{HEADER}\n{ROW}\n".replace(",", "|"), "wrong delimiter", {"got": "a vertical bar"}),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "binary file, or text in UTF-16", {}),
        (b"\x1f\x8b\x08" + bytes(range(1, 200)), "binary file, or text that is not UTF-8", {}),
        (f"{ROW}\n{ROW}\n", "missing columns", {"fix": "add a header"}),
        (
            f"{HEADER}\n{ROW}\n".replace("latitude", "lat").replace("altitude", "Altitude").replace("track_", ""),
            r"missing columns track_id.*, latitude \(is it 'lat'\?\), altitude \(is it 'Altitude'\?\)",
            {"got": "^the columns "},
        ),
        (f"{HEADER},note,note\n{ROW},a,b\n", "duplicate column", {"got": "^note$"}),
        ("lat,alt," * 1_000 + "\n", r"missing columns .* latitude \(is it 'lat'\?\)", {}),
        (f"{HEADER}{2 * (',' + 500 * 'x')}\n{ROW},a,b\n", "duplicate column", {"got": "^x{300}$"}),
        (f'{HEADER},note\n{ROW},"never closed\n', "not readable as CSV", {}),
    ],
)
def test_an_unusable_csv_file_is_refused_with_a_reason_in_one_line(
    tmp_path: Path, content: str | bytes, problem: str, fields: dict[str, str]
) -> None:
    path = tmp_path / "tracks.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrackFileError) as error:
        read_tracks(path)
    assert re.search(problem, error.value.problem)
    for name, pattern in fields.items():
        assert re.search(pattern, getattr(error.value, name))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["\f\n", "\v\r\n", "\n\n", " \t\n", "\ufeff\n", "\ufeff\f\n", "\r"], ids=repr)
def test_every_reader_skips_blank_lines_before_the_header(tmp_path: Path, flights: pd.DataFrame, prefix: str) -> None:
    path = tmp_path / "tracks.csv"
    path.write_text(prefix + flights.to_csv(index=False), encoding="utf-8", newline="")
    with read_tracks(path) as file:
        assert file.report.clean
        assert file.row_count == 20
    texts = list(row_texts(path))
    assert texts[0].removeprefix(BYTE_ORDER_MARK) == ",".join(flights)
    assert len(texts) == 1 + 20


def test_a_very_long_header_is_read_completely(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    more = {f"a column with a long name, number {number}": [0.5] for number in range(2_500)}
    table = pd.concat([pd.DataFrame(more, index=flights.index[:2]), flights[:2]], axis="columns")
    table.to_csv(path, index=False)
    with read_tracks(path) as file:
        assert file.report.clean
        np.testing.assert_array_equal(next(iter(file)).measurements[:, 3], flights["altitude"][:2])


@pytest.mark.parametrize(
    "position", [100, 70_000, csv_records.BLOCK_BYTES - 1, csv_records.BLOCK_BYTES, csv_records.BLOCK_BYTES + 20]
)
def test_a_nul_byte_is_refused_at_any_position(tmp_path: Path, position: int) -> None:
    path = tmp_path / "tracks.csv"
    text = (HEADER + "\r\n" + (ROW + "\r\n") * 30_000).encode()
    path.write_bytes(text[:position] + b"\0" + text[position + 1 :])
    line = 1 + text[:position].count(b"\n")
    with pytest.raises(TrackFileError, match="NUL byte") as error:
        read_tracks(path)
    assert error.value.got == f"a NUL in line {line:,}, at byte {position:,}"
    assert error.value.fix


@pytest.mark.parametrize("block", [1, 7, 64, 2**20])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"], ids=repr)
def test_the_block_size_does_not_change_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, ending: str
) -> None:
    path = tmp_path / "tracks.csv"
    text = ["a,b", "1,2", "", '"x\n""y""\r\n,z",3', "4,5,,", '6"7,8', '9,"', '"', "10"]
    expected = ["a,b", "1,2", '"x\n""y""\r\n,z",3', "4,5", '6"7,8', f'9,"{ending}"', "10,"]
    path.write_text(ending.join(text), newline="")
    monkeypatch.setattr(csv_records, "BLOCK_BYTES", block)
    assert list(row_texts(path)) == expected
    path.write_text(ending.join([*text, '"', ""]), newline="")
    line = len(text) + 1 + 2  # the quoted fields contain two line ends
    with pytest.raises(TrackFileError, match="unclosed quote") as error:
        list(row_texts(path))
    assert re.search(rf"line {line}$", error.value.got or "")


def test_an_endless_row_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "LONGEST_RECORD", 2 * csv_records.BLOCK_BYTES)
    path = tmp_path / "tracks.csv"
    for text, line in ((HEADER + "\n" + ROW + ',"', 2), (HEADER + "\n" + ROW, 2), (HEADER, 1), (f'"{HEADER}', 1)):
        path.write_text(text + 5_000_000 * " ")
        with pytest.raises(TrackFileError, match="row too long") as error:
            read_tracks(path)
        assert re.search(rf"line {line}$", error.value.got or "")
        assert error.value.fix


def test_very_long_fields_are_read_and_written(tmp_path: Path, flights: pd.DataFrame) -> None:
    table = flights.assign(note="long, " * 50_000)
    for name in ("tracks.csv", "tracks.parquet"):
        write_tracks(tmp_path / name, table)
        with read_tracks(tmp_path / name) as file:
            assert file.report.clean
        assert [len(text) > 300_000 for text in row_texts(tmp_path / name)] == [False] + 20 * [True]


def test_a_path_that_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name, message in {
        "loop.csv": "cannot be read.*Too many levels of symbolic links",
        300 * "x" + ".csv": "cannot be read.*File name too long",
        "none.csv": "no such file",
        "folder.csv": "not a file",
        "tracks.txt": r"unsupported file type.*\.csv or \.parquet or \.pq.*'\.txt'",
    }.items():
        with pytest.raises(TrackFileError, match=message):
            read_tracks(tmp_path / name)
    with pytest.raises(TrackFileError, match="cannot be read"):
        fingerprint(tmp_path / "none.csv")


def test_truncated_or_non_numeric_parquet_is_refused(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.parquet"
    write_tracks(path, flights)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrackFileError, match="not readable as Parquet"):
        read_tracks(path)
    flights.assign(timestamp=pd.to_datetime(flights["timestamp"], unit="s")).to_parquet(path)
    with pytest.raises(TrackFileError, match="column timestamp is not numeric") as error:
        read_tracks(path)
    assert re.match("the type timestamp", error.value.got or "")


def test_every_reader_refuses_a_parquet_column_name_that_is_not_utf_8(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.parquet"
    table = pa.Table.from_pandas(flights.assign(zzzz=1), preserve_index=False).replace_schema_metadata({})
    pyarrow.parquet.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"zz\xffz"))
    for read in (read_tracks, origin_of, lambda path: list(row_texts(path))):
        with pytest.raises(TrackFileError, match=r"cannot be read|text is not UTF-8") as error:
            read(path)
        assert error.value.where == str(path)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp("s"), pa.date32(), pa.duration("s"), pa.time64("us"), pa.bool_(), pa.list_(pa.float64())),
        *(pa.binary(), pa.large_binary(), pa.binary(8), pa.dictionary(pa.int32(), pa.timestamp("s"))),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["timestamp", "track_id", "latitude"])
def test_a_non_numeric_parquet_column_is_refused(
    tmp_path: Path, flights: pd.DataFrame, kind: pa.DataType, name: str
) -> None:
    path = tmp_path / "tracks.parquet"
    table = pa.Table.from_pandas(flights, preserve_index=False)
    index = table.column_names.index(name)
    pyarrow.parquet.write_table(table.set_column(index, name, pa.nulls(len(table), kind)), path)
    with pytest.raises(TrackFileError, match=f"column {name} is not numeric") as error:
        read_tracks(path)
    assert error.value.expected == "numbers"
    assert re.match("the type ", error.value.got or "")


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b"[]"], ids=lambda text: repr(text[:3]))
def test_an_origin_that_is_not_a_json_object_is_ignored(tmp_path: Path, flights: pd.DataFrame, text: bytes) -> None:
    table = pa.Table.from_pandas(flights, preserve_index=False).replace_schema_metadata({ORIGIN_KEY: text})
    pyarrow.parquet.write_table(table, tmp_path / "tracks.parquet")
    assert origin_of(tmp_path / "tracks.parquet") is None


def test_reading_labelled_tracks_requires_the_label_column(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    write_tracks(path, flights.drop(columns="reentry_phase").assign(phase=0))
    with pytest.raises(TrackFileError, match=r"missing column reentry_phase \(is it 'phase'"):
        read_tracks(path, labelled=True)


def test_garbage_at_the_end_of_a_file_sets_only_its_own_rows_aside(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    junk = np.random.default_rng(0).integers(1, 256, 3000, dtype=np.uint8).tobytes().replace(b'"', b"'")
    path.write_bytes(flights.to_csv(index=False).encode() + junk)
    with read_tracks(path) as file:
        assert [track.track_id for track in file] == [0, 1]
        assert file.row_count == 20 + file.report.rows_set_aside
        assert file.report.rows_set_aside > 0


@pytest.mark.parametrize("name", ["tracks.csv", "tracks.parquet"])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_new_one(
    tmp_path: Path, flights: pd.DataFrame, name: str
) -> None:
    def interrupted() -> Iterator[pd.DataFrame]:
        yield flights
        raise KeyboardInterrupt

    path = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        write_tracks(path, interrupted())
    assert list(tmp_path.iterdir()) == []
    write_tracks(path, flights)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_tracks(path, interrupted())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["tracks.csv", "tracks.parquet"])
def test_several_tables_are_written_one_after_the_other(tmp_path: Path, flights: pd.DataFrame, name: str) -> None:
    one, two = tmp_path / name, tmp_path / f"chunked_{name}"
    write_tracks(one, flights)
    write_tracks(two, iter([flights[:7], flights[7:]]))
    for path in (one, two):
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, float_precision="round_trip")
        pd.testing.assert_frame_equal(table, flights, check_dtype=False, check_exact=True)


def test_writing_no_table_or_tables_with_different_columns_is_refused(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    with pytest.raises(TrackFileError, match="nothing to write"):
        write_tracks(path, [])
    with pytest.raises(ValueError, match="Expected the columns"):
        write_tracks(path, [flights, flights.assign(more=1)])
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 100, 1000], ids=lambda size: f"room for {size} bytes")
def test_a_full_temporary_folder_is_reported_with_its_fix(tmp_path: Path, flights: pd.DataFrame, size: int) -> None:
    path = tmp_path / "tracks.csv"
    write_tracks(path, flights)
    with (
        room_for(size),
        pytest.raises(TrackFileError, match=r"temporary folder \(File too large\)") as error,
    ):
        read_tracks(path, in_memory_bytes=1)
    assert re.match("set TMPDIR", error.value.fix or "")


def test_a_missing_temporary_folder_is_reported_with_its_fix(
    tmp_path: Path, flights: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tracks.csv"
    write_tracks(path, flights)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(TrackFileError, match="temporary folder") as error:
        read_tracks(path, in_memory_bytes=1)
    assert re.match("set TMPDIR", error.value.fix or "")


def test_rows_on_disk_leave_no_file_behind_when_the_process_is_killed(
    tmp_path: Path, flights: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, temporary = tmp_path / "tracks.csv", tmp_path / "temporary"
    temporary.mkdir()
    write_tracks(path, flights)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with read_tracks(path, in_memory_bytes=1) as file:
        assert not file.in_memory
        assert list(temporary.iterdir()) == []
        assert [len(track) for track in file] == [10, 10]
