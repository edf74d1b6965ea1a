"""Columns of a landing file that are not columns of a track."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from pipeline.privacy.keys import PseudonymKeys
from pipeline.privacy.pseudonyms import EXTRA_TEXT, pseudonyms, usual_form
from reentry.tracks.csv_records import fields_of
from reentry.tracks.formats import CSV_SUFFIXES, file_format
from reentry.tracks.parquet import parquet_errors
from reentry.tracks.sources import RowTexts
from reentry.tracks.text_blocks import ENCODING

Texts = npt.NDArray[np.object_]

_COLUMN_NAME: Final = re.compile(r"(?!.*[0-9]{3})[a-z][a-z0-9_]{0,39}")
"""Usual form of a column name, such as snr or band_2: small letters, and numbers of one or two digits."""


def read_other_columns(path: Path, names: Sequence[str], columns: Sequence[str], rows: int) -> dict[str, Texts]:
    """Read columns as text, (N,) each; a missing cell is an empty text.

    Args:
        path: CSV or Parquet file of N rows whose track columns have been read.
        names: Columns to read.
        columns: All columns of the file, in file order.
        rows: N.
    """
    if not names:
        return {}
    if file_format(path) in CSV_SUFFIXES:
        return _from_csv(path, {name: columns.index(name) for name in names}, rows)
    with parquet_errors(path):
        table = pyarrow.parquet.read_table(path, columns=list(names), page_checksum_verification=True)
        return {name: _as_texts(table.column(name)) for name in names}


def _from_csv(path: Path, positions: dict[str, int], rows: int) -> dict[str, Texts]:
    texts = {name: np.full(rows, "", dtype=object) for name in positions}
    row = 0
    for block in RowTexts(path).blocks():
        for record in block.row_texts():
            fields = fields_of(record)
            for name, position in positions.items():
                if position < len(fields):
                    texts[name][row] = fields[position].strip().encode(ENCODING).decode(errors="replace")
            row += 1
    return texts


def _as_texts(column: Any) -> Texts:
    try:
        values = column.cast(pa.string()).to_pylist()
    except pa.ArrowException:  # lists, structs and the like
        values = [None if value is None else str(value) for value in column.to_pylist()]
    return np.array(["" if value is None else value for value in values], dtype=object)


def extra_column(
    columns: Mapping[str, Texts], simulated: Mapping[str, int], rows: npt.NDArray[np.int64], keys: PseudonymKeys
) -> pa.Array:
    """Return unknown columns as JSON objects: plain decimal fractions stay, every other text becomes a pseudonym.

    So does a column name that is not in the usual form of one, because a file without a header has cells for names. A
    whole number or a text of an unknown column may identify somebody. What a simulation records of itself does not.
    """
    if not columns and not simulated:
        return pa.nulls(len(rows), pa.string())
    safe = {_safe_name(name, keys): _safe(texts[rows], keys) for name, texts in columns.items()}
    objects = ({name: safe[name][row] for name in safe} | dict(simulated) for row in range(len(rows)))
    return pa.array([json.dumps(each) for each in objects], pa.string())


def _safe_name(name: str, keys: PseudonymKeys) -> str:
    return name if _COLUMN_NAME.fullmatch(name) else f"hmac:{pseudonyms(EXTRA_TEXT, [name], keys)[name]}"


def _safe(texts: Texts, keys: PseudonymKeys) -> list[float | str | None]:
    cache: dict[str, float | str | None] = {"": None}
    for text in set(texts) - {""}:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        usual = usual_form(text)
        is_fraction = np.isfinite(number) and not number.is_integer()
        cache[text] = number if is_fraction else f"hmac:{pseudonyms(EXTRA_TEXT, [usual], keys)[usual]}"
    return [cache[text] for text in texts]
