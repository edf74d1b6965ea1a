"""The user's rows are copied unchanged, whatever they contain, with the results in columns of their own."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import outputs
from client.journal import Score
from client.outputs import RowResults, TrackResult, write_outputs
from reentry.errors import InputError, TrackFileError
from reentry.refinement import RefinedOnset
from reentry.runtime import scratch
from reentry.simulation import simulate_file
from reentry.tracks import ReadReport, SetAside, Track, csv_records, fingerprint, read_tracks
from reentry.tracks.sources import row_texts
from tests.full_disk import room_for


def track_of(rows: list[int], steps: list[int], track_id: int = 1) -> Track:
    return Track(
        track_id=track_id,
        measurements=np.zeros((max(steps) + 1, 6)),
        reentry_phase=None,
        rows=np.array(rows),
        steps=np.array(steps),
    )


def score_of(phase: list[int], track_id: int = 1) -> Score:
    onset = phase.index(1) if 1 in phase else -1
    return Score(
        track_id=track_id,
        onset_step=onset,
        onset_timestamp=None if onset < 0 else 100.0 + onset,
        model_version=4,
        inference_seconds=0.5,
        tracks_in_request=8,
        time="2026-01-01T00:00:00.000+00:00",
        unlike_training='[{"quantity": "time_step", "value": 2.0, "low": 0.5, "high": 0.5}]',
        probability=np.linspace(0.0, 1.0, len(phase), dtype=np.float32),
        phase=np.array(phase, dtype=np.uint8),
    )


def write(source: Path, pairs: list[tuple[Track, Score]], set_aside: list[SetAside] | None = None) -> Path:
    count = sum(1 for _ in row_texts(source)) - 1
    rows = RowResults(count)
    for track, score in pairs:
        rows.take(track, score)
    report = ReadReport(path=source, rows=count, set_aside=set_aside or [])
    write_outputs(
        source.parent / "out",
        report=report,
        source=fingerprint(source),
        rows=rows,
        tracks=[TrackResult.of(track, score) for track, score in pairs],
    )
    return source.parent / "out"


def cells(rows: RowResults, start: int, stop: int) -> list[str]:
    text, used = rows.cells(start, stop)
    return [line[kept].tobytes().decode() for line, kept in zip(text, used, strict=True)]


def test_rows_of_one_step_share_its_result_and_an_onset_at_a_filled_step_is_at_the_next_row() -> None:
    # Rows 5 and 3 repeat each other (step 0); step 1 was filled into a gap; row 8 is step 2.
    track, score = track_of([5, 3, 8], [0, 0, 2]), score_of([0, 1, 1])
    result = TrackResult.of(track, score)
    assert (result.first_row, result.rows, result.onset_row, result.onset_timestamp) == (3, 3, 2, 101.0)
    rows = RowResults(9)
    rows.take(track, score)
    assert cells(rows, 2, 9) == [",,", ",0.000000,0", ",,", ",0.000000,0", ",,", ",,", ",1.000000,1"]


def test_probabilities_are_written_as_python_formats_them() -> None:
    rng = np.random.default_rng(0)
    halves = (np.arange(0, 1_000_000, 7, dtype=np.float64) + 0.5) / 1e6
    edges = [
        0.0,
        1.0,
        np.nextafter(np.float32(1), np.float32(0)),
        np.finfo(np.float32).smallest_subnormal,
        0.5,
        2.0**-7,
    ]
    rows = RowResults(0)
    rows.probability = np.concatenate([edges, halves, rng.random(10_000), rng.random(1000) ** 20]).astype(np.float32)
    rows.phase = rng.integers(0, 2, len(rows.probability)).astype(np.uint8)
    assert cells(rows, 0, len(rows.phase)) == [
        f",{probability:.6f},{phase}"
        for probability, phase in zip(rows.probability.tolist(), rows.phase.tolist(), strict=True)
    ]


def test_a_track_without_onset_has_empty_fields(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a\n1\n2\n")
    out = write(source, [(track_of([0, 1], [0, 1]), score_of([0, 0]))])
    assert (out / "onsets.csv").read_text().splitlines() == [
        "track_id,onset_row,onset_timestamp,refined_onset_timestamp,refined_onset_deviation,hindsight_seconds,"
        "rows,model_version",
        "1,,,,,,2,4",
    ]
    assert json.loads((out / "inference.jsonl").read_text()) == {
        "track_id": 1,
        "rows": 2,
        "onset_row": None,
        "onset_timestamp": None,
        "refined_onset_timestamp": None,
        "refined_onset_deviation": None,
        "hindsight_seconds": None,
        "inference_seconds": 0.5,
        "tracks_in_request": 8,
        "model_version": 4,
        "time": "2026-01-01T00:00:00.000+00:00",
        "unlike_training": ["time_step"],
    }


def test_a_refined_onset_has_columns_of_its_own_beside_the_causal_one(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a\n1\n2\n")
    score = replace(score_of([0, 1]), refinement=RefinedOnset(99.5, 0.25, 20.0))
    out = write(source, [(track_of([0, 1], [0, 1]), score)])
    assert (out / "onsets.csv").read_text().splitlines()[1] == "1,1,101.0,99.5,0.25,20.0,2,4"
    line = json.loads((out / "inference.jsonl").read_text())
    assert (line["onset_timestamp"], line["refined_onset_timestamp"]) == (101.0, 99.5)
    assert (line["refined_onset_deviation"], line["hindsight_seconds"]) == (0.25, 20.0)


@given(cells=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=3, max_size=3)))
def test_csv_rows_with_any_text_are_read_unchanged(
    cells: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("rows") / "t.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c"], *cells])
    texts = [text.encode("latin-1").decode("utf-8") for text in row_texts(source)]
    assert [next(csv.reader([text], strict=True)) for text in texts if "\n" not in text and "\r" not in text] == [
        row for row in [["a", "b", "c"], *cells] if not any("\n" in cell or "\r" in cell for cell in row)
    ]
    assert len(texts) == len(cells) + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\r\n1,2\r\n", ["a,b", "1,2"]),
        ("a,b\n\n1,2\n  \n3,4", ["a,b", "1,2", "3,4"]),
        ('a,b\n"1\n\n1",2\n3,4\n', ["a,b", '"1\n\n1",2', "3,4"]),
        ("a,b\n1\n1,2,3\n", ["a,b", "1,", "1,2"]),
        ('a,b\n"x,y",2\n', ["a,b", '"x,y",2']),
        ('a,b\n5" pipe,2\n3,4\n', ["a,b", '5" pipe,2', "3,4"]),
        ('"a, of b",c\n1,2\n1,2,3\n"1,2"\n', ['"a, of b",c', "1,2", "1,2", '"1,2",']),
        ('\xef\xbb\xbf"a, of b",c\n1,2\n', ['\xef\xbb\xbf"a, of b",c', "1,2"]),
    ],
    ids=[
        "crlf",
        "blank lines",
        "a line end in quotes",
        "ragged",
        "comma in quotes",
        "a quote inside a field",
        "comma in a column's name",
        "the same behind a byte order mark",
    ],
)
def test_lines_of_every_kind_are_split_as_the_track_reader_splits_them(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    source = tmp_path / "t.csv"
    source.write_text(text, encoding="latin-1", newline="")
    assert list(row_texts(source)) == expected


@pytest.mark.parametrize("line", ["\f", "\v", "\x1c", "\x85", "\xa0", " \t\xa0", "", " ", "\t", " \t "], ids=repr)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_line_is_blank_exactly_if_the_track_reader_skips_it(tmp_path: Path, line: str, encoding: str) -> None:
    source = tmp_path / "t.csv"
    simulate_file(source, tracks=1)
    header, *rows = source.read_text().splitlines()
    source.write_text("\n".join([header, rows[0], line, *rows[1:], line]), encoding=encoding)
    with read_tracks(source) as file:
        assert len(list(row_texts(source))) - 1 == file.row_count
        assert file.row_count == len(rows) + (0 if line.isascii() and not line.strip(" \t\v\f") else 2)


def test_results_keep_their_column_names_whatever_the_other_columns_are_called(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text('"altitude, m",a\n1,2\n3,4\n')
    got = pd.read_csv(write(source, [(track_of([0, 1], [0, 1]), score_of([0, 1]))]) / "predictions.csv")
    assert got.columns.tolist() == ["altitude, m", "a", "reentry_probability", "reentry_phase"]
    assert got.to_numpy().tolist() == [[1, 2, 0, 0], [3, 4, 1, 1]]


def test_bytes_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_bytes(b"\xef\xbb\xbfname,b\nMa\xdfstab,1\n")
    out = write(source, [(track_of([0], [0]), score_of([0]))])
    assert (out / "predictions.csv").read_bytes() == (
        b"\xef\xbb\xbfname,b,reentry_probability,reentry_phase\nMa\xdfstab,1,0.000000,0\n"
    )


def test_a_column_with_the_name_of_a_result_is_renamed(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text(" reentry_phase,a\n0,9\n")
    out = write(source, [(track_of([0], [0]), score_of([1]))])
    assert (out / "predictions.csv").read_text().splitlines() == [
        "reentry_phase_given,a,reentry_probability,reentry_phase",
        "0,9,0.000000,1",
    ]


def test_a_first_column_with_the_name_of_a_result_is_renamed_behind_a_byte_order_mark(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_bytes(b"\xef\xbb\xbfreentry_phase,a\n0,9\n")
    out = write(source, [(track_of([0], [0]), score_of([1]))])
    assert pd.read_csv(out / "predictions.csv").columns.tolist() == [
        "reentry_phase_given",
        "a",
        "reentry_probability",
        "reentry_phase",
    ]


def test_scoring_the_results_again_keeps_every_column_under_its_own_name(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a\n7\n")
    for _ in range(3):
        source.write_text((write(source, [(track_of([0], [0]), score_of([1]))]) / "predictions.csv").read_text())
    assert source.read_text().splitlines()[0].split(",") == [
        "a",
        *("reentry_probability_given", "reentry_phase_given"),
        *("reentry_probability_given_given", "reentry_phase_given_given"),
        *("reentry_probability", "reentry_phase"),
    ]


def test_parquet_rows_are_written_as_text_that_gives_the_same_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [0.1 + 0.2, 1e300, -0.0], "n": [1, 2, 3], "s": ['a,"b"', "two\nlines", ""]})
    table.to_parquet(tmp_path / "t.parquet")
    out = write(tmp_path / "t.parquet", [(track_of([0, 1, 2], [0, 1, 2]), score_of([0, 0, 1]))])
    got = pd.read_csv(out / "predictions.csv", keep_default_na=False, float_precision="round_trip")
    pd.testing.assert_frame_equal(got[["x", "n", "s"]], table)
    assert got["reentry_phase"].tolist() == [0, 0, 1]


PARQUET_COLUMNS = {
    "list": (pa.array([[1, 2], None]), ["[1, 2]", ""]),
    "struct": (pa.array([{"a": 1, "b": [0.1, float("nan")]}, None]), ['{"a": 1, "b": [0.1, "nan"]}', ""]),
    "map": (pa.array([[("k", 1), ("k", 2)], []], pa.map_(pa.string(), pa.int8())), ['[["k", 1], ["k", 2]]', "[]"]),
    "binary": (pa.array([b"\xff\x00", b"ab"]), ["ff00", "6162"]),
    "binary of one size": (pa.array([b"ab", None], pa.binary(2)), ["6162", ""]),
    "unknown zone": (
        pa.array([1731308400, None], pa.timestamp("ms", "Mars/Olympus")),
        ["1970-01-21 00:55:08.400Z", ""],
    ),
    "nested unknown zone": (
        pa.array([[1731308400000], []], pa.list_(pa.timestamp("ms", "Mars/Olympus"))),
        ['["2024-11-11 07:00:00.000Z"]', "[]"],
    ),
    "zone": (
        pa.array([1731308400000, 0], pa.timestamp("ms", "+01:00")),
        ["2024-11-11 08:00:00.000+0100", "1970-01-01 01:00:00.000+0100"],
    ),
    "uuid": (pa.array([16 * b"\x01", None], pa.uuid()), [16 * "01", ""]),
    "categories": (pa.array(["x", 'y"']).dictionary_encode(), ["x", 'y"']),
    "lists of categories": (pa.array([["é"], []], pa.list_(pa.dictionary(pa.int32(), pa.string()))), ['["é"]', "[]"]),
    "view": (pa.array(["x", None], pa.string_view()), ["x", ""]),
    "half": (pa.array([1.5, None], pa.float32()).cast(pa.float16()), ["1.5", ""]),
    "decimal": (pa.array([Decimal("1.50"), None]), ["1.50", ""]),
    "large": (pa.array([2**64 - 1, None], pa.uint64()), [str(2**64 - 1), ""]),
    "nothing": (pa.nulls(2), ["", ""]),
    'two\nlines, "高度"\r': (pa.array(["1\r2\n3", "高度"]), ["1\r2\n3", "高度"]),
    "long": (pa.array([200_000 * "x", "y"]), [200_000 * "x", "y"]),
}


def test_a_parquet_column_of_any_type_is_written(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table({name: column for name, (column, _) in PARQUET_COLUMNS.items()}), source)
    out = write(source, [(track_of([0, 1], [0, 1]), score_of([0, 1]))])
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [row.pop("reentry_phase") for row in rows] == ["0", "1"]
    assert [row.pop("reentry_probability") for row in rows] == ["0.000000", "1.000000"]
    assert rows == [{name: texts[row] for name, (_, texts) in PARQUET_COLUMNS.items()} for row in (0, 1)]


def test_parquet_text_that_is_not_utf_8_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"Ma\xdfstab"]).buffers())
    pyarrow.parquet.write_table(pa.table({"name": text}), source)
    out = write(source, [(track_of([0], [0]), score_of([0]))])
    assert b'\n"Ma\xdfstab",0.000000,0\n' in (out / "predictions.csv").read_bytes()


@pytest.mark.parametrize("now", ["a\n1\n", "a\n1\n2\n3\n"], ids=["fewer", "more"])
def test_a_file_with_another_number_of_rows_is_an_error_and_nothing_is_written(tmp_path: Path, now: str) -> None:
    source = tmp_path / "t.csv"
    source.write_text(now)
    with pytest.raises(TrackFileError, match="changed while it was scored") as error:
        write_outputs(tmp_path / "out", report=ReadReport(path=source), source="", rows=RowResults(2), tracks=[])
    assert error.value.expected == "2 rows"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_with_other_content_is_an_error_and_replaces_no_results(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a\n1\n2\n")
    before = fingerprint(source)
    write(source, [])
    old = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    source.write_text("a\n1\n3\n")
    with pytest.raises(TrackFileError, match=r"t\.csv: changed while it was scored"):
        write_outputs(tmp_path / "out", report=ReadReport(path=source), source=before, rows=RowResults(2), tracks=[])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == old


def test_rows_written_in_blocks_from_disk_are_the_same_as_rows_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a\n" + "".join(f"{row}\n" for row in range(10)))
    pair = (track_of(list(range(10)), list(range(10))), score_of([0] * 5 + [1] * 5))
    whole = (write(source, [pair]) / "predictions.csv").read_text()
    monkeypatch.setattr(csv_records, "BLOCK_BYTES", 5)
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(outputs, "_ROWS_IN_MEMORY", 3)
    assert (write(source, [pair]) / "predictions.csv").read_text() == whole
    assert whole.splitlines()[-1] == "9,1.000000,1"


def test_results_of_a_large_file_need_room_in_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    with room_for(10_000), pytest.raises(InputError, match="cannot be written: File too large"):
        RowResults(10_000)
