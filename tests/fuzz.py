"""Random files of tracks, most of them odd or damaged, and the checks of how they are read and written.

Each case is determined by its random seed. A file must either be refused with a one-line error, or have the rows that
an independent reader finds: Python's csv module for CSV, and the cells that were written for Parquet.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pandas._libs.parsers import STR_NA_VALUES

from client.journal import Score
from client.outputs import RowResults, TrackResult, write_outputs
from reentry.errors import TrackFileError
from reentry.schema import MEASUREMENT_COLUMNS, SENSOR_ID, TIMESTAMP, TRACK_COLUMNS, TRACK_ID
from reentry.tracks import Repair, TrackFile, fingerprint, read_tracks

NAMES: Final = [column.name for column in TRACK_COLUMNS]
RANGES: Final = {
    column.name: (-math.inf if column.low is None else column.low, math.inf if column.high is None else column.high)
    for column in TRACK_COLUMNS
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file according to the independent reader."""

    cells: dict[str, Any]
    """Cells by column: a float (an integer for ids), None if the cell is missing, `...` if it is invalid."""
    fits: bool
    """Whether the row has the right number of fields."""
    fields: Sequence[Any]
    """All cells of the row, in file order."""

    @property
    def good(self) -> bool:
        """Whether the row has the right number of fields and valid cells."""
        return self.fits and all(cell is not ... and cell is not None for cell in self.cells.values())


def flights(rng: random.Random) -> list[dict[str, float]]:
    """Return the rows of a few short tracks with valid values in every cell."""
    rows = []
    for track_id in rng.sample([0, 1, 7, -3, 2**53 + 1, 2**63 - 1], rng.randint(1, 3)):
        start = rng.choice([1731308400.0, 0.0, 5e9])
        for step in range(rng.randint(2, 9)):
            cells = (start + 0.25 + step / 2, track_id, 3, rng.uniform(-90, 90), rng.uniform(-180, 180))
            rows.append(dict(zip(NAMES, (*cells, rng.uniform(0, 1e5), rng.random()), strict=True)))
    if rng.random() < 0.3:
        rng.shuffle(rows)
    return rows


# --- CSV --------------------------------------------------------------------------------------------------------------

ODD_CELLS: Final = (
    *("", " ", "NA", "nan", "None", "inf", "-Infinity", "1e400", "True", "false", "0x10", "1_0", "٣", "é", "x", "-"),
    *("5.", ".5", "+3", " 5 ", "\t7", "1e2", "1E+2", "1d5", "1,5", '"', '5"', "''", "=1+1", "9" * 25, "0" * 30 + "1"),
    *("3.0", "3.5", "1e3", "45031.8", "-0", "2024-11-11", "\v3", "3\f", "\x1f", "\u00a03", "\u2028", "1 2"),
)
LINE_ENDS: Final = ("\n", "\r\n", "\r")
BLANK_LINES: Final = ("", " ", "\t", "\f", "\v", " \t ", '""', '" "')


def csv_file(rng: random.Random) -> bytes:
    """Return a CSV file of tracks with some of the oddities of real files."""
    extras = rng.sample(
        ["note", "a, b", 'said "x"', "two\nlines", "é", "", "", " padded "], rng.choice([0, 0, 1, 2, 4])
    )
    names = [*NAMES, *extras]
    if rng.random() < 0.5:
        rng.shuffle(names)
    if rng.random() < 0.05:
        names[rng.randrange(len(names))] = rng.choice(["", "timestamp", "x", "Altitude"])
    odd = rng.choice([0.0, 0.0, 0.01, 0.1])
    quoted = rng.choice([0.0, 0.0, 0.1, 1.0])
    end = rng.choice(LINE_ENDS)
    text = _csv_record(rng, names, quoted=0.3 if quoted else 0.0) + rng.choice(["", "", "", ",", ",,"]) + end
    if rng.random() < 0.1:
        text = rng.choice(BLANK_LINES[:-2]) + end + text
    ragged = rng.choice([0.0, 0.0, 0.1, 1.0])
    tail = rng.choice([",", ",,", ",,,", ", ,", ",9", ",,9", ",NA", ',""', ',"9"'])
    for flight in flights(rng):
        cells = [repr(flight[name]) if name in flight else rng.choice(["", "ab", "1", "ü", "x y"]) for name in names]
        cells = [rng.choice(ODD_CELLS) if rng.random() < odd else cell for cell in cells]
        cells = [f" {cell} " if rng.random() < odd else cell for cell in cells]
        if rng.random() < ragged / 4:
            cells = cells[: rng.randrange(1, len(cells))]
        text += _csv_record(rng, cells, quoted=quoted)
        if rng.random() < ragged:
            text += tail
        text += end if rng.random() > odd else rng.choice(LINE_ENDS)
        if rng.random() < odd:
            text += rng.choice(BLANK_LINES) + end
    if rng.random() < 0.3:
        text = text.removesuffix(end)
    data = text.encode("latin-1" if rng.random() < 0.05 else "utf-8", errors="replace")
    if rng.random() < 0.2:
        data = codecs.BOM_UTF8 + data
    return damaged(rng, data) if rng.random() < 0.2 else data


def _csv_record(rng: random.Random, cells: list[str], *, quoted: float) -> str:
    fields = []
    for cell in cells:
        if rng.random() < quoted or (set(cell) & set(',"\r\n') and rng.random() < 0.9):
            more = rng.choice(["", "", "", "", "\n", "\r\n", ",", '"']) if rng.random() < 0.2 else ""
            cell = '"' + (cell + more).replace('"', '""') + '"'
            if rng.random() < 0.02:
                cell = rng.choice([f" {cell}", f"{cell} ", f"{cell}x", cell[:-1]])
        fields.append(cell)
    return ",".join(fields)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return the file truncated, or with a few bytes changed, repeated or deleted."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data) + 1)]
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(result))
        match rng.randrange(4):
            case 0:
                result[place] ^= 1 << rng.randrange(8)
            case 1:
                result[place] = rng.choice(b'\0,"\n\r;\xff 9')
            case 2:
                del result[place : place + rng.choice([1, 1, 8])]
            case _:
                result[place:place] = result[place : place + rng.choice([1, 8])]
    return bytes(result)


def read_csv(data: bytes) -> tuple[list[str], list[Row]] | None:
    """Return the columns and rows of a CSV file by Python's csv module; None if the file must be refused."""
    sentinel = "\nsentinel\n"
    if b"\0" in data:
        return None
    text = data.decode("utf-8-sig", errors="replace")
    records = list(csv.reader(io.StringIO(text + sentinel, newline="")))
    if records.pop() != ["sentinel"]:  # a quote is unclosed at the end of the file
        return None
    records = [each for each in records if len(each) > 1 or "".join(each).strip(" \t\r\n\v\f")]
    if not records:
        return None
    names = [name.strip() for name in records[0]]
    named = [name for name in names if name]
    if not set(NAMES) <= set(named) or len(set(named)) < len(named) or len(records) == 1:
        return None
    if "\ufffd" in "".join(names) or not names:
        return None
    fewest = max(place for place, name in enumerate(names) if name) + 1
    return names, [_csv_row(names, fewest, record) for record in records[1:]]


def _csv_row(names: list[str], fewest: int, record: list[str]) -> Row:
    fits = fewest <= len(record) and not "".join(record[len(names) :]).strip()
    record = (record + [""] * len(names))[: len(names)]
    by_name = dict(zip(names, record, strict=True))
    return Row({name: _valid(name, _csv_cell(name, by_name[name])) for name in NAMES}, fits, record)


def _csv_cell(name: str, text: str) -> Any:
    if text in STR_NA_VALUES:
        return None
    if text.strip().lower() in ("true", "false"):
        return ...
    try:
        return _whole(Decimal(text.strip())) if name in (TRACK_ID.name, SENSOR_ID.name) else float(text)
    except (ValueError, InvalidOperation):
        return ...


def _whole(number: Decimal) -> Any:
    whole = number.is_finite() and abs(number) < 10**20 and number == int(number)
    return int(number) if whole and -(2**63) <= number < 2**63 else ...


def _valid(name: str, cell: Any) -> Any:
    if cell is None or cell is ... or name in (TRACK_ID.name, SENSOR_ID.name):
        return cell
    low, high = RANGES[name]
    return cell if math.isfinite(cell) and low <= cell <= high else ...


# --- Parquet ----------------------------------------------------------------------------------------------------------

_FLOATS: Final[dict[str, Callable[[Any], Any]]] = {
    "double": float,
    "float": lambda cell: float(np.float32(cell)),
    "halffloat": lambda cell: float(np.float16(cell)),
    "decimal128(38, 10)": lambda cell: round(Decimal(cell), 10),
    "decimal256(60, 20)": lambda cell: round(Decimal(cell), 15),
    "string": repr,
    "large_string": repr,
    "string_view": repr,
}
_WHOLE: Final[dict[str, Callable[[Any], Any]]] = {
    "int64": int,
    "uint64": lambda cell: int(cell) % 2**64,
    "decimal128(38, 10)": Decimal,
    "string": str,
    "large_string": lambda cell: f" {cell}.0",
}
_REFUSED: Final = (
    *(pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.date32(), pa.bool_(), pa.binary(), pa.large_binary()),
    *(pa.binary(8), pa.list_(pa.float64()), pa.duration("s"), pa.time32("s"), pa.struct([("x", pa.float64())])),
)
_TYPES: Final = {
    "double": pa.float64(),
    "float": pa.float32(),
    "halffloat": pa.float16(),
    "decimal128(38, 10)": pa.decimal128(38, 10),
    "decimal256(60, 20)": pa.decimal256(60, 20),
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
}


def parquet_file(rng: random.Random) -> tuple[bytes, tuple[list[str], list[Row]] | None]:
    """Return a Parquet file of tracks with random types and additional columns, and its expected columns and rows."""
    rows = flights(rng) if rng.random() > 0.03 else []
    refused = not rows
    names, arrays, cells = [], [], []
    for name in NAMES:
        is_id = name in (TRACK_ID.name, SENSOR_ID.name)
        kinds = _WHOLE if is_id else _FLOATS
        kind = rng.choice(list(kinds)) if rng.random() < 0.5 else next(iter(kinds))
        if kind == "halffloat" and name in (TIMESTAMP.name, "altitude"):
            kind = "float"
        missing = rng.choice([0.0, 0.0, 0.0, 0.1, 1.0]) if rng.random() < 0.2 else 0.0
        column = [None if rng.random() < missing else kinds[kind](row[name]) for row in rows]
        array = pa.array(column, _TYPES[kind])
        if rng.random() < 0.15 and kind in ("double", "int64", "string"):
            array = array.dictionary_encode()
        if rng.random() < 0.01:
            kind_of_column = rng.choice(_REFUSED)
            if rng.random() < 0.3 and kind_of_column != pa.duration("s") and not pa.types.is_nested(kind_of_column):
                kind_of_column = pa.dictionary(pa.int32(), kind_of_column)
            array, refused = pa.nulls(len(rows), kind_of_column), True
        names.append(name)
        arrays.append(array)
        cells.append([_valid(name, _parquet_cell(name, cell)) for cell in column])
    by_row = [dict(zip(NAMES, row, strict=True)) for row in zip(*cells, strict=True)]
    for number in range(rng.choice([0, 0, 1, 3])):
        kind = rng.choice(_EXTRAS)
        names.append(
            rng.choice([f"x{number}", f"x\n{number}", "", "timestamp.x", f"高度{number}", f'"{number},', " x"])
        )
        missing = (
            0.0 if pa.types.is_fixed_size_list(kind) else 0.2
        )  # pyarrow can write a missing list of fixed size but not read it
        arrays.append(pa.array([None if rng.random() < missing else _value(rng, kind) for _ in rows], kind))
    if rng.random() < 0.03:
        place = rng.randrange(len(names))
        names[place] = rng.choice([*NAMES, "Altitude"])
    named = [name for name in names if name]
    refused = refused or len(set(named)) < len(named) or not set(NAMES) <= set(named)
    if rng.random() < 0.01:
        names, arrays, refused = [], [], True
    table = pa.Table.from_arrays(arrays, names=names)
    fields = list(
        zip(*(array.to_pylist() if _plain(array.type) else [...] * len(rows) for array in arrays), strict=True)
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        table,
        buffer,
        row_group_size=rng.choice([1, 3, 1000]),
        compression=rng.choice(["none", "snappy", "zstd", "gzip"]),
        use_dictionary=rng.random() < 0.5,
        data_page_version=rng.choice(["1.0", "2.0"]),
        write_page_checksum=rng.random() < 0.5,
        store_schema=refused or rng.random() < 0.8,  # without the schema a duration is read as a number
    )
    data = buffer.getvalue()
    expected = (
        None if refused else (names, [Row(*each) for each in zip(by_row, [True] * len(rows), fields, strict=True)])
    )
    return data, expected


def read_parquet(data: bytes) -> tuple[list[str], list[Row]] | None:
    """Return the columns and rows of a Parquet file, with all track columns read at once; None if pyarrow cannot."""
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        table = file.read(NAMES)
        table.validate(full=True)
        columns = {name: _decoded(table.column(name)).to_pylist() for name in NAMES}
    except Exception:  # pyarrow raises many types for a damaged file
        return None
    cells = [[_valid(name, _parquet_cell(name, cell)) for cell in columns[name]] for name in NAMES]
    rows = [dict(zip(NAMES, row, strict=True)) for row in zip(*cells, strict=True)]
    return names, [Row(row, fits=True, fields=[...] * len(names)) for row in rows]


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _parquet_cell(name: str, cell: Any) -> Any:
    if isinstance(cell, str):
        return _csv_cell(name, cell)
    if name in (TRACK_ID.name, SENSOR_ID.name):
        return None if cell is None else _whole(Decimal(cell))
    return None if cell is None else float(cell)


_EXTRAS: Final = (
    *(pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string()),
    *(pa.binary(), pa.large_binary(), pa.binary(4), pa.string_view(), pa.date32(), pa.date64(), pa.time32("ms")),
    *(pa.time64("us"), pa.duration("us"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin")),
    *(pa.timestamp("ms", "Mars/Olympus"), pa.timestamp("s", "+05:30"), pa.decimal128(38, 10), pa.decimal256(60, 20)),
    *(pa.null(), pa.list_(pa.int64()), pa.large_list(pa.float32()), pa.list_(pa.timestamp("us", "Mars/Olympus"), 2)),
    pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
    *(pa.map_(pa.string(), pa.float64()), pa.map_(pa.int32(), pa.list_(pa.binary()))),
    *(pa.list_(pa.list_(pa.struct([("x", pa.decimal128(38, 10))]))), pa.dictionary(pa.int32(), pa.string())),
)


def _value(rng: random.Random, kind: pa.DataType) -> Any:
    """Return a random value of a type, sometimes a limit of its range."""
    if pa.types.is_struct(kind):
        return {field.name: _value(rng, field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(_value(rng, kind.key_type), _value(rng, kind.item_type)) for _ in range(rng.randrange(3))]
    if pa.types.is_nested(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else rng.randrange(3)
        return [_value(rng, kind.value_type) for _ in range(size)]
    if pa.types.is_boolean(kind):
        return rng.random() < 0.5
    if pa.types.is_integer(kind):
        return rng.choice([0, 1, 2**kind.bit_width // 2 - 1, 7])
    if pa.types.is_floating(kind):
        return np.float16(rng.choice([0.0, -0.0, 0.1, 1.5, math.nan, math.inf, rng.random()])).item()
    if pa.types.is_decimal(kind):
        return Decimal(rng.randrange(-(10**20), 10**20)).scaleb(-kind.scale)
    if pa.types.is_fixed_size_binary(kind):
        return rng.randbytes(4)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return rng.randbytes(rng.randrange(5))
    if pa.types.is_null(kind):
        return None
    if pa.types.is_date64(kind):
        return 86_400_000 * rng.randrange(-(10**4), 10**4)
    if pa.types.is_time(kind):
        return rng.randrange(86_400_000)
    if pa.types.is_temporal(kind):
        return rng.choice([0, 1, -1, 10**9, rng.randrange(-(2**31), 2**31)])
    return rng.choice(["", "a", " ", ",", '"', "\n", "\r\n", "é", "高", "NA", "x" * 10, "\u2028", "a\0b"])


def _plain(kind: pa.DataType) -> bool:
    """Whether pyarrow converts the type to Python values that `assert_text_is` can compare."""
    return not _holds(kind, lambda each: pa.types.is_temporal(each) or pa.types.is_floating(each))


def _holds(kind: pa.DataType, check: Callable[[pa.DataType], bool]) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds(kind.value_type, check)
    return check(kind) or any(_holds(kind.field(place).type, check) for place in range(kind.num_fields))


def assert_text_is(text: str, value: Any) -> None:
    """Check that a field of the results equals the cell of the file."""
    if value is ...:
        return
    if value is None:
        assert text == ""
    elif isinstance(value, bool):
        assert text == str(value).lower()
    elif isinstance(value, str):
        assert text == value
    elif isinstance(value, bytes):
        assert text == value.hex()
    elif isinstance(value, int | Decimal):
        assert Decimal(text) == value
    else:
        assert json.loads(text) == _as_json(value)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return format(value, "f") if isinstance(value, Decimal) else value


# --- Checks -----------------------------------------------------------------------------------------------------------


def assert_read_as(path: Path, expected: tuple[list[str], list[Row]] | None, *, whole: bool = True) -> bool:
    """Check that reading a file and writing results for it agree with the independent reader.

    Args:
        path: Path of the file.
        expected: Columns and rows of the independent reader; None if the file must be refused.
        whole: Whether the file is undamaged; a damaged file may always be refused.

    Returns:
        Whether the file was read.
    """
    refused = None
    try:
        with read_tracks(path) as file:
            assert expected is not None, "a file was read that must be refused"
            _, rows = expected
            _assert_tracks(file, rows)
            _assert_results(file, rows, path.with_suffix(".out"))
    except TrackFileError as error:
        refused = error
    if refused is not None:
        assert expected is None or not whole, refused
        assert "\n" not in str(refused)
        assert len(str(refused)) < 1500
    return refused is None


def _assert_tracks(file: TrackFile, rows: list[Row]) -> None:
    assert file.row_count == len(rows)
    seen: list[int] = []
    for track in file:
        seen += track.rows.tolist()
        assert np.isfinite(track.measurements).all()
        for row, step in zip(track.rows.tolist(), track.steps.tolist(), strict=True):
            assert rows[row].fits
            assert rows[row].cells[TRACK_ID.name] == track.track_id
            for name, got in zip(MEASUREMENT_COLUMNS, track.measurements[step].tolist(), strict=True):
                expected = rows[row].cells[name]
                assert expected is not ...
                restored = name == TIMESTAMP.name and Repair.RETIMED in file.report.repairs
                assert expected is None or restored or math.isclose(got, expected, rel_tol=1e-15), (row, name, got)
    aside = [row for each in file.report.set_aside for row in each.rows.tolist()]
    assert sorted(seen + aside) == list(range(len(rows)))
    for each in file.report.set_aside:
        assert each.reason
        of_track = [rows[row] for row in each.rows.tolist()]
        times = [row.cells[TIMESTAMP.name] for row in of_track]
        assert not all(row.good for row in of_track) or len(set(times)) < max(2, len(times)), each.reason


def _assert_results(file: TrackFile, rows: list[Row], out: Path) -> None:
    results = RowResults(len(rows))
    tracks = []
    for track in file:
        score = Score(
            track_id=track.track_id,
            onset_step=-1,
            onset_timestamp=None,
            model_version=1,
            inference_seconds=0.0,
            tracks_in_request=1,
            time="",
            probability=np.full(len(track), track.rows[0] / len(rows), dtype=np.float32),
            phase=np.ones(len(track), dtype=np.uint8),
        )
        results.take(track, score)
        tracks.append(TrackResult.of(track, score))
    files = write_outputs(out, report=file.report, source=fingerprint(file.path), rows=results, tracks=tracks)
    written = _csv_of(files.predictions)
    assert len(written) == 1 + len(rows)
    expected = results.probability.tolist()
    for row, probability, fields in zip(rows, expected, written[1:], strict=True):
        *texts, got, phase = fields
        assert len(texts) == len(row.fields)
        for text, value in zip(texts, row.fields, strict=True):
            assert_text_is(text, value)
        assert (got, phase) == (("", "") if math.isnan(probability) else (f"{probability:.6f}", "1"))
    aside = sorted(row for each in file.report.set_aside for row in each.rows.tolist())
    assert (files.set_aside is None) == (not aside)
    if files.set_aside is not None:
        set_aside = _csv_of(files.set_aside)[1:]
        assert [int(fields[-2]) for fields in set_aside] == aside
        for row, fields in zip(aside, set_aside, strict=True):
            for text, value in zip(fields[:-2], rows[row].fields, strict=True):
                assert_text_is(text, value)


def _csv_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return list(csv.reader(file))
