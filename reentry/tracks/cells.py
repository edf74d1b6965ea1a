"""The cells of a chunk of rows: parsed, and checked against the columns that `schema` declares.

Shapes: N rows, M measurement columns.
"""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from reentry.schema import MEASUREMENT_COLUMNS, REENTRY_PHASE, SENSOR_ID, TIMESTAMP, TRACK_COLUMNS, TRACK_ID, Column
from reentry.tracks.sources import FIELDS

NO_LABEL: Final = -1

RECORD: Final = np.dtype(
    [
        ("row", np.int64),
        ("track_id", np.int64),
        ("measurement", np.float64, (len(MEASUREMENT_COLUMNS),)),
        ("reentry_phase", np.int8),
    ]
)
"""A row that names its track: NaN is a cell that is missing, `NO_LABEL` no label."""

Records = npt.NDArray[np.void]

_FAULT_COLUMNS: Final = ["row", "column", "problem", "got"]
_WHOLE_ROW: Final = ""
_NOT_WHOLE: Final = "not a whole number"
_TOO_LARGE: Final = "beyond 64 bits"
_MISFIT: Final = "not as many fields as the header"


def parse(chunk: pd.DataFrame, *, labelled: bool) -> tuple[Records, npt.NDArray[np.int64], pd.DataFrame]:
    """Turn a chunk of `Source.chunks` into records, and find all its faults.

    Args:
        chunk: N rows, indexed by row number.
        labelled: whether a label must be there and 0 or 1; otherwise another one counts as none.

    Returns:
        The records (dtype `RECORD`) of the rows that name a track, in order; the numbers of the rows that name none;
        the faults, a table of `row`, `column` ("" the row as a whole), `problem`, `got`, at most one for each cell,
        by row.
    """
    track_id, names_track, track_faults = _ids(chunk, TRACK_ID)
    sensor_id, has_sensor, sensor_faults = _ids(chunk, SENSOR_ID)
    faults = [track_faults, sensor_faults]
    numbers: dict[str, npt.NDArray[np.float64]] = {}
    for column in (*TRACK_COLUMNS, REENTRY_PHASE):
        if column in (TRACK_ID, SENSOR_ID) or column.name not in chunk:
            continue
        numbers[column.name], unreadable = _numbers(chunk[column.name], truth=column is REENTRY_PHASE)
        if column is not REENTRY_PHASE or labelled:
            faults.append(unreadable)
    faults.append(_violations(pd.DataFrame(numbers, index=chunk.index, copy=False), labelled=labelled))

    numbers[SENSOR_ID.name] = np.where(has_sensor, sensor_id.astype(np.float64), np.nan)
    records = np.empty(len(chunk), dtype=RECORD)
    records["row"] = chunk.index
    records["track_id"] = track_id
    for position, name in enumerate(MEASUREMENT_COLUMNS):
        records["measurement"][:, position] = numbers[name]
    label = numbers.get(REENTRY_PHASE.name, np.full(len(chunk), np.nan))
    records["reentry_phase"] = np.where((label == 0) | (label == 1), label, NO_LABEL).astype(np.int8)

    if FIELDS in chunk:
        misfits = chunk[FIELDS].dropna()
        whole = pd.DataFrame({"row": misfits.index, "column": _WHOLE_ROW, "problem": _MISFIT, "got": misfits})
        # The cells of such a row may belong to other columns: their own faults say nothing.
        faults = [whole, *(each[~each["row"].isin(misfits.index)] for each in faults)]
    found = [f for f in faults if len(f)]
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=_FAULT_COLUMNS)
    # A cell that is no number is missing as well, and an infinite one is out of range: the first says it.
    table = table.drop_duplicates(["row", "column"]).sort_values("row", kind="stable", ignore_index=True)
    return records[names_track], chunk.index.to_numpy()[~names_track], table


@cache
def track_schema(*, labelled: bool) -> pa.DataFrameSchema:
    """The measured columns of a table of tracks as `schema` declares them, for pandera."""
    columns = [c for c in TRACK_COLUMNS if c not in (TRACK_ID, SENSOR_ID)]
    # A missing measurement may be repaired from its neighbours; a time or a label cannot.
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
        checks.append(pa.Check(lambda values: values == np.floor(values), error="not a whole number"))
    return checks


def _violations(numbers: pd.DataFrame, *, labelled: bool) -> pd.DataFrame:
    try:
        track_schema(labelled=labelled).validate(numbers, lazy=True, inplace=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases.sort_values(["index", "check_number"], kind="stable")
        return pd.DataFrame(
            {
                "row": cases["index"].astype(np.int64),
                "column": cases["column"],
                "problem": cases["check"].replace("not_nullable", "missing"),
                "got": cases["failure_case"].map(lambda value: "nothing" if pd.isna(value) else f"{value:.10g}"),
            }
        )
    return pd.DataFrame(columns=_FAULT_COLUMNS)


def _numbers(cells: pd.Series[float], *, truth: bool) -> tuple[npt.NDArray[np.float64], pd.DataFrame]:
    """Parse a column to float64, NaN where it is missing or no number, and list the cells that are no number.

    Args:
        cells: numbers, booleans where a CSV file holds nothing but "True" and "False", or objects.
        truth: whether "True" is 1 and "False" is 0, as in labels; elsewhere they are no numbers.
    """
    if cells.dtype.kind in ("biuf" if truth else "iuf"):
        return cells.to_numpy(np.float64, na_value=np.nan), pd.DataFrame(columns=_FAULT_COLUMNS)
    # float() rather than pd.to_numeric, which rounds one number in seven otherwise than the CSV parser.
    numbers = np.array([_number(cell, truth=truth) for cell in cells], dtype=np.float64)
    unreadable = cells[np.isnan(numbers) & cells.notna().to_numpy()]
    return numbers, _fault_table(unreadable, str(cells.name), "not a number")


def _number(cell: object, *, truth: bool) -> float:
    if str(cell).strip().lower() in ("true", "false"):
        return float(str(cell).strip().lower() == "true") if truth else float("nan")
    try:
        return float(cell)  # type: ignore[arg-type]  # whatever the file holds
    except (TypeError, ValueError):
        return float("nan")


def _ids(chunk: pd.DataFrame, column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], pd.DataFrame]:
    """Parse a column of ids, categories of text: the ids (N,), whether each was readable (N,), the faults.

    Each distinct text is parsed once, and exactly: a 19-digit id survives a bad one beside it.
    """
    cells = chunk[column.name]
    codes = cells.cat.codes.to_numpy()
    # One more entry for code -1, a missing cell.
    parsed = [*map(_whole_number, cells.cat.categories), (0, "missing")]
    values = np.array([number for number, _ in parsed], dtype=np.int64)
    problems = np.array([problem for _, problem in parsed], dtype=object)[codes]
    good: npt.NDArray[np.bool_] = problems == ""
    faults = [_fault_table(cells[problems == kind], column.name, kind) for kind in (_NOT_WHOLE, _TOO_LARGE, "missing")]
    return values[codes], good, pd.concat(faults)


def _whole_number(text: Hashable) -> tuple[int, str]:
    """The integer that `text` writes ("3", "3.0", "3e5"), and "" or what is wrong with it."""
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
