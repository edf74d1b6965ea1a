"""Plain ids in landing files, which are read leniently because bad rows and unusable files hold ids too."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.storage import Storage, StoredFile
from pipeline.lake.tables import OPERATOR_ID
from pipeline.privacy.id_search import IdSearch
from pipeline.privacy.pseudonyms import usual_form
from pipeline.privacy.subject import KINDS, TRACK, Subject
from reentry.schema import SENSOR_ID, TRACK_ID
from reentry.tracks.csv_records import fields_of, split_records
from reentry.tracks.formats import PARQUET_SUFFIXES
from reentry.tracks.text_blocks import ENCODING

_log = logging.getLogger(__name__)

_LINE_END: Final = re.compile(r"[\r\n]+")
_COLUMNS: Final = (TRACK_ID.name, SENSOR_ID.name, OPERATOR_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedSubject:
    """A landing file, or an earlier version of it, that holds the id of a subject."""

    file: StoredFile
    tracks: frozenset[int]
    """Tracks of the rows that name the subject."""


def files_about(subject: Subject, landing: Storage) -> list[LandedSubject]:
    """Return the landing files, and earlier versions of them, that hold the id of a subject in any column.

    Raises:
        LakeError: The landing folder is unavailable.
    """
    search = IdSearch([] if subject.kind == TRACK else [subject.name])
    found = []
    for file, content in _contents(landing):
        table = _table(file.path, content)
        same = table.get(KINDS[subject.kind], pd.Series(dtype=str)) == subject.name
        tracks = table.loc[same[same].index, TRACK_ID.name] if TRACK_ID.name in table else pd.Series(dtype=str)
        numbers = pd.to_numeric(tracks, errors="coerce").dropna()
        if (
            same.any()
            or search.in_text(file.path.encode())
            or _in_other_cells(search, file.path, content)
            or _in_unread_rows(subject, file.path, content, was_read=len(table.columns) > 0)
        ):
            found.append(LandedSubject(file=file, tracks=frozenset(int(each) for each in numbers)))
    return found


def all_ids(landing: Storage) -> set[str]:
    """Return the ids of all sensors and operators in landing files and earlier versions of them.

    Raises:
        LakeError: The landing folder is unavailable.
    """
    found: set[str] = set()
    for file, content in _contents(landing):
        table = _table(file.path, content)
        for name in (SENSOR_ID.name, OPERATOR_ID):
            if name in table:
                found |= set(table[name].dropna())
    return found - {""}


def _contents(landing: Storage) -> Iterator[tuple[StoredFile, bytes]]:
    for file in landing.files():
        with suppress(FileNotFoundError), landing.open(file) as stream:
            yield file, stream.read()


def _table(name: str, content: bytes) -> pd.DataFrame:
    """Return the columns of ids as texts, as far as the file can be read; whole numbers are in their usual form."""
    try:
        if name.lower().endswith(PARQUET_SUFFIXES):
            parquet = pq.ParquetFile(io.BytesIO(content))
            columns = [each for each in _COLUMNS if each in parquet.schema_arrow.names]
            table = pd.DataFrame({each: parquet.read([each])[each].cast(pa.string()).to_pylist() for each in columns})
        else:
            text = io.StringIO(content.decode("utf-8-sig", errors="replace"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of cells that `_in_unread_rows` searches
                table = pd.read_csv(text, dtype=str, on_bad_lines="skip", keep_default_na=False, index_col=False)
    except (pa.ArrowException, ValueError, OSError, pd.errors.ParserError):
        # The cause is left out, because its text may contain a cell.
        _log.warning("a landing file cannot be read as a table; its cells are searched in any column")
        return pd.DataFrame()
    table.columns = table.columns.map(str.strip)
    ids = {each: table[each].fillna("").str.strip() for each in _COLUMNS if list(table.columns).count(each) == 1}
    return pd.DataFrame({each: cells if each == OPERATOR_ID else cells.map(usual_form) for each, cells in ids.items()})


def _in_unread_rows(subject: Subject, name: str, content: bytes, *, was_read: bool) -> bool:
    """Return whether a CSV file holds the id of a subject in a row that could not be read as a row of the table.

    Args:
        subject: The subject.
        name: Name of the file.
        content: Its bytes.
        was_read: Whether the other rows were read.
    """
    if name.lower().endswith(PARQUET_SUFFIXES):
        return False
    content = content.removeprefix(codecs.BOM_UTF8)
    if not was_read:
        return any(_has_cell(subject, line) for line in _LINE_END.split(content.decode(ENCODING)))
    records = split_records(content)
    names = [cell.strip() for cell in _cells(next((each for each in records if each.strip()), ""))]
    own = names.index(KINDS[subject.kind]) if KINDS[subject.kind] in names else len(names)
    for record in records:
        cells = _cells(record)
        if len(cells) == len(names) and "\n" not in record and "\r" not in record:
            continue
        if len(cells) > len(names) and not any(cell.strip() for cell in cells[len(names) :]):
            # Only empty cells are too many, so each of the others is in its column.
            if any(_is_id(subject, cell) for cell in cells[own : own + 1]):
                return True
        elif any(_has_cell(subject, line) for line in _LINE_END.split(record)):
            return True
    return False


def _has_cell(subject: Subject, line: str) -> bool:
    # A quote in the wrong place joins cells, so the line is split without regard to quotes too.
    return any(_is_id(subject, cell) for cell in {*_cells(line), *line.split(",")})


def _is_id(subject: Subject, cell: str) -> bool:
    text = cell.encode(ENCODING).decode(errors="replace").strip(" \t\r\n\"'")
    return subject.name in (text, usual_form(text))


def _cells(record: str) -> list[str]:
    try:
        return fields_of(record)
    except (csv.Error, StopIteration):
        return record.split(",")


def _in_other_cells(search: IdSearch, name: str, content: bytes) -> bool:
    if name.lower().endswith(PARQUET_SUFFIXES):
        with suppress(pa.ArrowException, OSError):  # pyarrow raises an OSError for a damaged page
            return bool(search.in_table(pq.ParquetFile(io.BytesIO(content)).read()))
    return search.in_text(content) > 0
