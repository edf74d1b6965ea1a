"""Parsing of the cells of a chunk of rows, and their validation against the columns that `schema` declares.

Shapes: N rows, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, SENSOR_ID, TIMESTAMP, TRACK_COLUMNS, TRACK_ID, Column
from reentry.tracks.csv_numbers import Numbers
from reentry.tracks.sources import FIELDS, Chunk

NO_LABEL: Final = -1

RECORD: Final = np.dtype(
    [
        ("row", np.int64),
        ("track_id", np.int64),
        ("measurement", np.float64, (len(MEASUREMENT_COLUMNS),)),
        ("reentry_phase", np.int8),
    ]
)
"""One row whose track id is readable. A missing measurement is NaN, a missing label is `NO_LABEL`."""

Records = npt.NDArray[np.void]

_FAULT_COLUMNS: Final = ["row", "column", "problem", "got"]
_COLUMNS: Final = {column.name: column for column in (*TRACK_COLUMNS, REENTRY_PHASE)}
_NO_FAULTS: Final = pd.DataFrame(columns=_FAULT_COLUMNS)
_WHOLE_ROW: Final = ""
_NOT_WHOLE: Final = "not a whole number"
_TOO_LARGE: Final = "does not fit in 64 bits"


def parse(chunk: Chunk, *, labelled: bool) -> tuple[Records, npt.NDArray[np.int64], pd.DataFrame]:
    """Parse a chunk of N rows and find all faulty cells.

    Args:
        chunk: N rows.
        labelled: Whether every row needs a label of 0 or 1. If False, any other label is treated as missing.

    Returns:
        A tuple of three values. First, the rows with a readable track id, in file order, with dtype `RECORD`. Second,
        the numbers of the rows without a readable track id. Third, a table of faults, sorted by row and with at most
        one fault per cell; its columns are `row`, `column` ("" for the whole row), `problem` and `got`.
    """
    if chunk.numbers is None:
        return _parse_cells(chunk.cells(), labelled=labelled)
    rows = np.arange(chunk.first, chunk.first + chunk.rows)
    return _records(rows, chunk.numbers), rows[:0], _violations(rows, chunk.numbers, labelled=labelled)


def _records(rows: npt.NDArray[np.int64], numbers: Numbers) -> Records:
    records = np.empty(len(rows), dtype=RECORD)
    records["row"] = rows
    records["track_id"] = numbers[TRACK_ID.name]
    for position, name in enumerate(MEASUREMENT_COLUMNS):
        records["measurement"][:, position] = numbers[name]
    records["reentry_phase"] = NO_LABEL
    if REENTRY_PHASE.name in numbers:
        label = numbers[REENTRY_PHASE.name]
        records["reentry_phase"] = np.where((label == 0) | (label == 1), label, NO_LABEL).astype(np.int8)
    return records


def _parse_cells(chunk: pd.DataFrame, *, labelled: bool) -> tuple[Records, npt.NDArray[np.int64], pd.DataFrame]:
    """Parse cells of any content, see `parse`.

    Args:
        chunk: N rows, as `Chunk.cells` documents.
        labelled: See `parse`.
    """
    track_id, has_track, track_faults = _ids(chunk, TRACK_ID)
    sensor_id, has_sensor, sensor_faults = _ids(chunk, SENSOR_ID)
    faults = [track_faults, sensor_faults]
    numbers: dict[str, npt.NDArray[Any]] = {}
    for column in (*TRACK_COLUMNS, REENTRY_PHASE):
        if column in (TRACK_ID, SENSOR_ID) or column.name not in chunk:
            continue
        numbers[column.name], unreadable = _numbers(chunk[column.name], allow_boolean=column is REENTRY_PHASE)
        if column is not REENTRY_PHASE or labelled:
            faults.append(unreadable)
    faults.append(_violations(chunk.index.to_numpy(), numbers, labelled=labelled))

    numbers[SENSOR_ID.name] = np.where(has_sensor, sensor_id.astype(np.float64), np.nan)
    records = _records(chunk.index.to_numpy(), {**numbers, TRACK_ID.name: track_id})

    if FIELDS in chunk:
        misfits = chunk[FIELDS].dropna()
        whole = {"row": misfits.index, "column": _WHOLE_ROW, "problem": "wrong number of fields", "got": misfits}
        # The cells of such a row may be shifted into other columns, so faults of its cells would mislead.
        faults = [pd.DataFrame(whole), *(each[~each["row"].isin(misfits.index)] for each in faults)]
    faults = [each for each in faults if len(each)]
    table = _sorted(pd.concat(faults, ignore_index=True)) if faults else _NO_FAULTS
    return records[has_track], chunk.index.to_numpy()[~has_track], table


def _sorted(faults: pd.DataFrame) -> pd.DataFrame:
    """Sort faults by row, with one fault for each cell."""
    # A non-numeric cell is also missing, and an infinite cell is also out of range: only the first fault is kept.
    return faults.drop_duplicates(["row", "column"]).sort_values("row", kind="stable", ignore_index=True)


@cache
def track_schema(*, labelled: bool) -> pa.DataFrameSchema:
    """Return the pandera schema of the numeric columns of a table of tracks, built from `schema`."""
    columns = [c for c in TRACK_COLUMNS if c not in (TRACK_ID, SENSOR_ID)]
    # A missing measurement can be interpolated; a missing timestamp or label cannot.
    return pa.DataFrameSchema(
        {c.name: pa.Column("float64", _checks(c), nullable=c is not TIMESTAMP) for c in columns}
        | ({REENTRY_PHASE.name: pa.Column("float64", _checks(REENTRY_PHASE), nullable=False)} if labelled else {})
    )


def _checks(column: Column) -> list[pa.Check]:
    checks = [pa.Check(np.isfinite, error="not finite")]
    if column.low is not None:
        checks.append(pa.Check.ge(column.low, error=column.too_low))
    if column.high is not None:
        checks.append(pa.Check.le(column.high, error=column.too_high))
    if np.issubdtype(column.dtype, np.integer):
        checks.append(pa.Check(lambda values: values == np.floor(values), error=_NOT_WHOLE))
    return checks


def _violations(rows: npt.NDArray[np.int64], numbers: Numbers, *, labelled: bool) -> pd.DataFrame:
    """Return the faults that `track_schema` finds in rows, (N,), and their columns, (N,) each."""
    schema = track_schema(labelled=labelled)
    if not len(rows):
        return _NO_FAULTS
    wrong = [each for name in schema.columns if len(each := _outside(_COLUMNS[name], numbers[name]))]
    if not wrong:
        return _NO_FAULTS
    # pandera checks only the rows that have a fault.
    chosen = np.unique(np.concatenate(wrong))
    table = pd.DataFrame({name: numbers[name][chosen] for name in schema.columns}, index=rows[chosen])
    try:
        schema.validate(table, lazy=True, inplace=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases.sort_values(["index", "check_number"], kind="stable")
        return _sorted(
            pd.DataFrame(
                {
                    "row": cases["index"].astype(np.int64),
                    "column": cases["column"],
                    "problem": cases["check"].replace("not_nullable", "missing"),
                    "got": cases["failure_case"].map(lambda value: "nothing" if pd.isna(value) else f"{value:.10g}"),
                }
            )
        )
    return _NO_FAULTS


def _outside(column: Column, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the positions of the values, (N,), that the schema of a column refuses."""
    low = np.finfo(np.float64).min if column.low is None else column.low
    high = np.finfo(np.float64).max if column.high is None else column.high
    may_be_missing = column not in (TIMESTAMP, REENTRY_PHASE)
    whole = column is REENTRY_PHASE
    lowest, highest = (np.fmin, np.fmax) if may_be_missing else (np.minimum, np.maximum)
    if low <= lowest.reduce(values) and highest.reduce(values) <= high and not whole:
        return np.empty(0, dtype=np.int64)
    good = (low <= values) & (values <= high)
    if may_be_missing:
        good |= np.isnan(values)
    if whole:
        good &= values == np.floor(values)
    return np.flatnonzero(~good)


def _numbers(cells: pd.Series[float], *, allow_boolean: bool) -> tuple[npt.NDArray[np.float64], pd.DataFrame]:
    """Parse a column as float64 and list its non-numeric cells; missing and non-numeric cells become NaN.

    Args:
        cells: Cells as pandas or pyarrow read them: numbers, booleans, or objects.
        allow_boolean: Whether "True" is 1 and "False" is 0, as in labels, rather than non-numeric.
    """
    if cells.dtype.kind in ("biuf" if allow_boolean else "iuf"):
        return cells.to_numpy(np.float64, na_value=np.nan), pd.DataFrame(columns=_FAULT_COLUMNS)
    # pd.to_numeric would round one number in seven differently from the CSV parser; float() rounds like it.
    numbers = np.array([_number(cell, allow_boolean=allow_boolean) for cell in cells], dtype=np.float64)
    unreadable = cells[np.isnan(numbers) & cells.notna().to_numpy()]
    return numbers, _fault_table(unreadable, str(cells.name), "not a number")


def _number(cell: object, *, allow_boolean: bool) -> float:
    text = str(cell).strip().lower()
    if text in ("true", "false"):
        return float(text == "true") if allow_boolean else float("nan")
    try:
        return float(cell)  # type: ignore[arg-type]  # float() rejects what it cannot convert
    except (TypeError, ValueError):
        return float("nan")


def _ids(chunk: pd.DataFrame, column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], pd.DataFrame]:
    """Parse a categorical text column of ids and return the ids (N,), whether each is readable (N,), and the faults.

    Each distinct text is parsed once, as an exact integer, because float64 cannot hold a 19-digit id.
    """
    cells = chunk[column.name]
    codes = cells.cat.codes.to_numpy()
    # pandas marks a missing cell by code -1, which selects the extra last entry.
    parsed = [*map(_whole_number, cells.cat.categories), (0, "missing")]
    values = np.array([number for number, _ in parsed], dtype=np.int64)
    problems = np.array([problem for _, problem in parsed], dtype=object)[codes]
    good: npt.NDArray[np.bool_] = problems == ""
    kinds = [kind for kind in (_NOT_WHOLE, _TOO_LARGE, "missing") if (problems == kind).any()]
    faults = [_fault_table(cells[problems == kind], column.name, kind) for kind in kinds]
    return values[codes], good, pd.concat(faults) if faults else _NO_FAULTS


def _whole_number(text: Hashable) -> tuple[int, str]:
    """Parse an integer such as "3", "3.0" or "3e5"; the second value names the problem, or is ""."""
    try:
        number = Decimal(str(text).strip())
    except InvalidOperation:
        return 0, _NOT_WHOLE
    if not number.is_finite():
        return 0, _NOT_WHOLE
    if not -(2**63) <= number < 2**63:
        return 0, _TOO_LARGE
    return (int(number), "") if number == number.to_integral_value() else (0, _NOT_WHOLE)


def _fault_table(cells: pd.Series[float], column: str, problem: str) -> pd.DataFrame:
    got = ["nothing" if pd.isna(cell) else repr(str(cell)[:40]) for cell in cells]
    return pd.DataFrame({"row": cells.index, "column": column, "problem": problem, "got": got}, columns=_FAULT_COLUMNS)
