"""Files that are no files of tracks: one line that says what is wrong; and files that are written whole or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from reentry.errors import TrackFileError
from reentry.simulation import TrapezoidConfig, simulate_trapezoid
from reentry.tracks import fingerprint, origin_of, read_tracks, records, write_tracks
from reentry.tracks.origin import ORIGIN_KEY
from reentry.tracks.records import BYTE_ORDER_MARK
from reentry.tracks.sources import row_texts
from tests.full_disk import room_for

HEADER = "timestamp,track_id,sensor_id,latitude,longitude,altitude,radiometric_intensity"
ROW = "1731308400,0,3,64.1,-21.9,10.0,0.01"


@pytest.fixture
def flights() -> pd.DataFrame:
    return simulate_trapezoid(TrapezoidConfig(tracks=2, shortest=10, longest=10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty file"),
        ("\n \n", "no columns: a blank file; expected a header and rows of tracks"),
        (HEADER, "no rows"),
        (HEADER + "\n\n", "no rows"),
        (f"{HEADER}\n{ROW}\n".replace(",", ";"), "wrong delimiter; expected commas .* got a semicolon"),
        (f"{HEADER}\n{ROW}\n".replace(",", "\t"), "wrong delimiter; .* got a tab"),
        (f"{HEADER}\n{ROW}\n".replace(",", "|"), "wrong delimiter; .* got a vertical bar"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "a binary file, or text in UTF-16"),
        (b"\x1f\x8b\x08" + bytes(range(1, 200)), "a binary file, or not in UTF-8"),
        (f"{ROW}\n{ROW}\n", "missing columns .* fix: put a header above the rows"),
        (
            f"{HEADER}\n{ROW}\n".replace("latitude", "lat").replace("altitude", "Altitude").replace("track_", ""),
            r"missing columns track_id.*, latitude \(is it 'lat'\?\), altitude \(is it 'Altitude'\?\); got the columns",
        ),
        (f"{HEADER},note,note\n{ROW},a,b\n", "a column stands twice; got note"),
        ("lat,alt," * 1_000 + "\n", r"missing columns .* latitude \(is it 'lat'\?\)"),
        (f"{HEADER}{2 * (',' + 500 * 'x')}\n{ROW},a,b\n", "a column stands twice; got x{300}$"),
        (f'{HEADER},note\n{ROW},"never closed\n', "not readable as CSV"),
    ],
)
def test_a_csv_file_that_cannot_be_used_says_why_in_one_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "tracks.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrackFileError, match=message) as error:
        read_tracks(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ahead", ["\f\n", "\v\r\n", "\n\n", " \t\n", "\ufeff\n", "\ufeff\f\n", "\r"], ids=repr)
def test_blank_lines_before_the_header_are_no_header_to_any_reader(
    tmp_path: Path, flights: pd.DataFrame, ahead: str
) -> None:
    path = tmp_path / "tracks.csv"
    path.write_text(ahead + flights.to_csv(index=False), encoding="utf-8", newline="")
    with read_tracks(path) as file:
        assert file.report.clean
        assert file.row_count == 20
    texts = list(row_texts(path))
    assert texts[0].removeprefix(BYTE_ORDER_MARK) == ",".join(flights)
    assert len(texts) == 1 + 20


def test_a_header_of_any_length_is_read_whole(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    more = {f"a column with a long name, number {number}": [0.5] for number in range(2_500)}
    table = pd.concat([pd.DataFrame(more, index=flights.index[:2]), flights[:2]], axis="columns")
    table.to_csv(path, index=False)
    with read_tracks(path) as file:
        assert file.report.clean
        np.testing.assert_array_equal(next(iter(file)).measurements[:, 3], flights["altitude"][:2])


@pytest.mark.parametrize("place", [100, 70_000, records.BLOCK_BYTES - 1, records.BLOCK_BYTES, records.BLOCK_BYTES + 20])
def test_a_nul_is_refused_wherever_it_stands(tmp_path: Path, place: int) -> None:
    path = tmp_path / "tracks.csv"
    text = (HEADER + "\r\n" + (ROW + "\r\n") * 30_000).encode()
    path.write_bytes(text[:place] + b"\0" + text[place + 1 :])
    line = 1 + text[:place].count(b"\n")
    with pytest.raises(TrackFileError, match=rf"NUL .* got a NUL in line {line:,}, at byte {place:,}; fix: "):
        read_tracks(path)


@pytest.mark.parametrize("block", [1, 7, 64, 2**20])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"], ids=repr)
def test_blocks_of_any_size_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, ending: str
) -> None:
    path = tmp_path / "tracks.csv"
    text = ["a,b", "1,2", "", '"x\n""y""\r\n,z",3', "4,5,,", '6"7,8', '9,"', '"', "10"]
    expected = ["a,b", "1,2", '"x\n""y""\r\n,z",3', "4,5", '6"7,8', f'9,"{ending}"', "10,"]
    path.write_text(ending.join(text), newline="")
    monkeypatch.setattr(records, "BLOCK_BYTES", block)
    assert list(row_texts(path)) == expected
    path.write_text(ending.join([*text, '"', ""]), newline="")
    line = len(text) + 1 + 2  # two lines more within quotes
    with pytest.raises(TrackFileError, match=rf"a quote is never closed; got .* line {line};"):
        list(row_texts(path))


def test_a_row_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LONGEST_RECORD", 2 * records.BLOCK_BYTES)
    path = tmp_path / "tracks.csv"
    for text, line in ((HEADER + "\n" + ROW + ',"', 2), (HEADER + "\n" + ROW, 2), (HEADER, 1), (f'"{HEADER}', 1)):
        path.write_text(text + 5_000_000 * " ")
        with pytest.raises(TrackFileError, match=f"a row does not end; .* begins in line {line}; fix: "):
            read_tracks(path)


def test_a_field_of_any_length_is_read_and_written(tmp_path: Path, flights: pd.DataFrame) -> None:
    table = flights.assign(note="long, " * 50_000)
    for name in ("tracks.csv", "tracks.parquet"):
        write_tracks(tmp_path / name, table)
        with read_tracks(tmp_path / name) as file:
            assert file.report.clean
        assert [len(text) > 300_000 for text in row_texts(tmp_path / name)] == [False] + 20 * [True]


def test_a_place_without_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name, message in {
        "loop.csv": "cannot be read; got Too many levels of symbolic links",
        300 * "x" + ".csv": "cannot be read; got File name too long",
        "none.csv": "no such file",
        "folder.csv": "not a file",
        "tracks.txt": "unknown kind of file; expected a name ending in .csv or .parquet or .pq; got '.txt'",
    }.items():
        with pytest.raises(TrackFileError, match=message):
            read_tracks(tmp_path / name)
    with pytest.raises(TrackFileError, match="cannot be read"):
        fingerprint(tmp_path / "none.csv")


def test_parquet_that_is_cut_or_holds_no_numbers_says_so(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.parquet"
    write_tracks(path, flights)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrackFileError, match="not readable as Parquet"):
        read_tracks(path)
    flights.assign(timestamp=pd.to_datetime(flights["timestamp"], unit="s")).to_parquet(path)
    with pytest.raises(TrackFileError, match=r"column timestamp holds no numbers; .* got the type timestamp"):
        read_tracks(path)


def test_parquet_whose_column_name_is_no_utf_8_is_refused_by_every_reader(
    tmp_path: Path, flights: pd.DataFrame
) -> None:
    path = tmp_path / "tracks.parquet"
    table = pa.Table.from_pandas(flights.assign(zzzz=1), preserve_index=False).replace_schema_metadata({})
    pyarrow.parquet.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"zz\xffz"))
    for read in (read_tracks, origin_of, lambda path: list(row_texts(path))):
        with pytest.raises(
            TrackFileError, match=r"tracks\.parquet: (cannot be read|not readable as Parquet: text that)"
        ):
            read(path)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp("s"), pa.date32(), pa.duration("s"), pa.time64("us"), pa.bool_(), pa.list_(pa.float64())),
        *(pa.binary(), pa.large_binary(), pa.binary(8), pa.dictionary(pa.int32(), pa.timestamp("s"))),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["timestamp", "track_id", "latitude"])
def test_a_parquet_column_of_a_track_that_holds_no_numbers_is_refused(
    tmp_path: Path, flights: pd.DataFrame, kind: pa.DataType, name: str
) -> None:
    path = tmp_path / "tracks.parquet"
    table = pa.Table.from_pandas(flights, preserve_index=False)
    place = table.column_names.index(name)
    pyarrow.parquet.write_table(table.set_column(place, name, pa.nulls(len(table), kind)), path)
    with pytest.raises(TrackFileError, match=rf"column {name} holds no numbers; expected numbers; got the type "):
        read_tracks(path)


@pytest.mark.parametrize("said", [b"{", b"\xff", b"[" * 100_000, b"[]"], ids=lambda said: repr(said[:3]))
def test_an_origin_that_is_no_json_object_is_none(tmp_path: Path, flights: pd.DataFrame, said: bytes) -> None:
    table = pa.Table.from_pandas(flights, preserve_index=False).replace_schema_metadata({ORIGIN_KEY: said})
    pyarrow.parquet.write_table(table, tmp_path / "tracks.parquet")
    assert origin_of(tmp_path / "tracks.parquet") is None


def test_labels_that_are_asked_for_must_be_there(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    write_tracks(path, flights.drop(columns="reentry_phase").assign(phase=0))
    with pytest.raises(TrackFileError, match=r"missing column reentry_phase \(is it 'phase'\?\)"):
        read_tracks(path, labelled=True)


def test_noise_after_a_good_beginning_costs_only_itself(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    junk = np.random.default_rng(0).integers(1, 256, 3000, dtype=np.uint8).tobytes().replace(b'"', b"'")
    path.write_bytes(flights.to_csv(index=False).encode() + junk)
    with read_tracks(path) as file:
        assert [track.track_id for track in file] == [0, 1]
        assert file.row_count == 20 + file.report.rows_set_aside
        assert file.report.rows_set_aside > 0


@pytest.mark.parametrize("name", ["tracks.csv", "tracks.parquet"])
def test_an_interrupted_write_leaves_no_file_and_the_old_one_as_it_was(
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
def test_tables_are_written_below_each_other(tmp_path: Path, flights: pd.DataFrame, name: str) -> None:
    one, two = tmp_path / name, tmp_path / f"chunked_{name}"
    write_tracks(one, flights)
    write_tracks(two, iter([flights[:7], flights[7:]]))
    for path in (one, two):
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, float_precision="round_trip")
        pd.testing.assert_frame_equal(table, flights, check_dtype=False, check_exact=True)


def test_no_table_or_tables_of_different_columns_are_refused(tmp_path: Path, flights: pd.DataFrame) -> None:
    path = tmp_path / "tracks.csv"
    with pytest.raises(TrackFileError, match="nothing to write"):
        write_tracks(path, [])
    with pytest.raises(ValueError, match="Expected the columns"):
        write_tracks(path, [flights, flights.assign(more=1)])
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 100, 1000], ids=lambda size: f"room for {size} bytes")
def test_a_temporary_folder_without_room_is_named(tmp_path: Path, flights: pd.DataFrame, size: int) -> None:
    path = tmp_path / "tracks.csv"
    write_tracks(path, flights)
    with (
        room_for(size),
        pytest.raises(TrackFileError, match=r"temporary folder .* \(File too large\); fix: set TMPDIR"),
    ):
        read_tracks(path, in_memory_bytes=1)


def test_a_temporary_folder_that_is_not_there_is_named(
    tmp_path: Path, flights: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tracks.csv"
    write_tracks(path, flights)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(TrackFileError, match=r"temporary folder .* fix: set TMPDIR"):
        read_tracks(path, in_memory_bytes=1)


def test_rows_on_disk_have_no_name_that_a_killed_process_would_leave(
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
