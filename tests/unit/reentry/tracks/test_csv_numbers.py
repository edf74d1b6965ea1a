"""The fast parser of plain numbers and the parser of any cells give the same rows and faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reentry.schema import REENTRY_PHASE, SENSOR_ID, TRACK_COLUMNS, TRACK_ID
from reentry.tracks import csv_records
from reentry.tracks.cells import parse
from reentry.tracks.sources import Chunk, open_source

NAMES = [column.name for column in (*TRACK_COLUMNS, REENTRY_PHASE)]
ROW = ["1731308400.5", "7", "3", "64.1", "-21.9", "1000.25", "0.5", "1"]
ODD_CELLS = [
    *("", " ", "\t", "nan", "NaN", "NAN", "-nan", "NA", "null", "None", "inf", "-inf", "Infinity", "1e400", "-1e400"),
    *(
        "1e-400",
        "4.9e-324",
        "0x1F",
        "0X10",
        "-0x1",
        "+5",
        "-0",
        "-0.0",
        "007",
        "1_000",
        "1.",
        ".5",
        "-.5",
        "1e5",
        "1E+5",
    ),
    *(
        " 7 ",
        "7\t",
        "\v7",
        "7\xa0",
        "true",
        "False",
        "TRUE",
        "٣",
        "é",
        "\ufeff7",
        "1 2",
        "--1",
        "1e",
        "e5",
        "1d5",
        "1f",
    ),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "9007199254740993", "1" * 30, "3.0", "3.5"),
    *(
        "0.1000000000000000055511151231257827",
        "2.2250738585072011e-308",
        "123456789012345678901e-20",
        "1000000000000000",
    ),
    *('"3"', '"3', '3"', '""', '"3\n4"', "'3'", "1;2", "#1", "1,2", "\x1c5", "1\x00"[:1], "\\N", "(1)", "1%", "$1"),
]


def chunks_of(path: Path, content: bytes | pa.Table) -> Iterator[Chunk]:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pyarrow.parquet.write_table(content, path)
    yield from open_source(path).chunks()


def assert_both_parsers_agree(chunk: Chunk) -> None:
    if chunk.numbers is None:
        return  # the fast parser left the chunk to the other one
    for labelled in (False, True):
        records, without_track, faults = parse(chunk, labelled=labelled)
        expected, expected_without_track, expected_faults = parse(replace(chunk, numbers=None), labelled=labelled)
        assert records.tobytes() == expected.tobytes()
        assert without_track.tolist() == expected_without_track.tolist()
        assert faults.to_dict("records") == expected_faults.to_dict("records")


def csv_of(rows: list[list[str]], end: str = "\n") -> bytes:
    return (end.join(",".join(cells) for cells in [NAMES, *rows]) + end).encode()


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_cell_is_parsed_as_by_the_parser_of_any_cells(tmp_path: Path, name: str) -> None:
    for cell in ODD_CELLS:
        odd = [cell if column == name else value for column, value in zip(NAMES, ROW, strict=True)]
        try:
            chunks = list(chunks_of(tmp_path / "t.csv", csv_of([ROW, odd, ROW])))
        except csv_records.TrackFileError:  # an open quote
            assert '"' in cell
            continue
        for chunk in chunks:
            assert_both_parsers_agree(chunk)


numbers = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers(-(2**70), 2**70).map(str)
shortened = st.builds(lambda value, digits: f"{value:.{digits}g}", st.floats(0.0, 1e12), st.integers(1, 25))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.tuples(st.integers(0, 7), numbers | shortened | st.sampled_from(ODD_CELLS)), max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \n"]),
    block=st.sampled_from([64, 2**20]),
)
def test_files_are_parsed_as_by_the_parser_of_any_cells(
    rows: list[tuple[int, str]], end: str, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cells = [[*ROW[:place], cell, *ROW[place + 1 :]] for place, cell in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "BLOCK_BYTES", block)
        try:
            for chunk in chunks_of(tmp_path_factory.mktemp("csv") / "t.csv", csv_of([ROW, *cells, ROW], end)):
                assert_both_parsers_agree(chunk)
        except csv_records.TrackFileError:  # an open quote
            assert any('"' in cell for _, cell in rows)


@settings(deadline=None)
@given(texts=st.lists(numbers | shortened, min_size=1, max_size=50))
def test_numbers_are_rounded_as_python_rounds_them(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [[*ROW[:6], text, ROW[7]] for text in texts]
    [chunk] = chunks_of(tmp_path_factory.mktemp("csv") / "t.csv", csv_of(rows))
    assert chunk.numbers is not None
    assert chunk.numbers["radiometric_intensity"].tolist() == list(map(float, texts))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (",".join(NAMES), ",".join(ROW)),
        ("note," + ",".join(reversed(NAMES)) + ",", "é x," + ",".join(reversed(ROW)) + ","),
    ],
    ids=["the columns of a track", "in another order between other columns"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("blank", ["", "\n", "\r\n\r\n"], ids=repr)
def test_lines_of_plain_numbers_take_the_fast_parser(
    tmp_path: Path, header: str, row: str, end: str, blank: str
) -> None:
    missing = row.replace("1000.25", "")
    text = f"{header}{end}{row}{end}{blank}{missing}{end}{row}{end}"
    altitude = []
    for chunk in chunks_of(tmp_path / "t.csv", text.encode()):
        assert chunk.numbers is not None
        assert {name: values.dtype.kind for name, values in chunk.numbers.items()} == {
            name: "i" if name in (TRACK_ID.name, SENSOR_ID.name) else "f" for name in NAMES
        }
        assert_both_parsers_agree(chunk)
        altitude += chunk.numbers["altitude"].tolist()
    np.testing.assert_equal(altitude, [1000.25, np.nan, 1000.25])


@pytest.mark.parametrize("position", [0, 1], ids=["first block", "later block"])
def test_a_byte_order_mark_is_dropped_in_front_of_the_first_row_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    monkeypatch.setattr(csv_records, "BLOCK_BYTES", 16)
    rows = [["\ufeff1", *ROW[1:]] if row == position else ROW for row in range(2)]
    chunks = list(chunks_of(tmp_path / "t.csv", csv_of(rows)))
    faults = pd.concat([parse(chunk, labelled=True)[2] for chunk in chunks])
    assert faults["row"].tolist() == [position] * position


ARRAYS: list[Callable[[list[Any]], pa.Array]] = [
    *(lambda values, kind=kind: pa.array(values).cast(kind, safe=False) for kind in (pa.float32(), pa.float64())),
    lambda values: pa.array(values, pa.float64()).cast(pa.string()),
    lambda values: pa.array(values, pa.float64()).dictionary_encode(),
    *(
        lambda values, kind=kind: pa.array(
            [None if v is None or v != v or abs(v) > 99 else abs(int(v)) for v in values], kind
        )
        for kind in (pa.int8(), pa.int64(), pa.uint64())
    ),
    lambda values: pa.array(
        [None if v is None or v != v or abs(v) > 99 else Decimal(int(v)) for v in values], pa.decimal128(10, 3)
    ),
    lambda values: pa.nulls(len(values)),
]


@settings(deadline=None)
@given(
    columns=st.lists(st.sampled_from(ARRAYS), min_size=8, max_size=8),
    values=st.lists(
        st.sampled_from([0.0, 1.0, -0.0, 3.0, 5.5, -91.0, 1e300, float("inf"), float("nan"), None]), max_size=6
    ),
)
def test_parquet_columns_of_any_type_are_parsed_as_by_the_parser_of_any_cells(
    columns: list[Callable[[list[Any]], pa.Array]], values: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cells = [1.0, *values]
    table = pa.Table.from_arrays([make(cells) for make in columns], names=NAMES)
    for chunk in chunks_of(tmp_path_factory.mktemp("parquet") / "t.parquet", table):
        assert_both_parsers_agree(chunk)


def test_plain_parquet_columns_take_the_fast_parser(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [
            pa.array([int(float(cell))], pa.int32() if "id" in name else pa.float64())
            for name, cell in zip(NAMES, ROW, strict=True)
        ],
        names=NAMES,
    )
    [chunk] = chunks_of(tmp_path / "t.parquet", table)
    assert chunk.numbers is not None
    assert chunk.numbers["sensor_id"].tolist() == [3]
