"""What a scored file leaves behind: its rows with probability and phase, its onsets, its log, what was set aside.

The rows are read a second time and written as they stand, so that no digit of the user's file changes and memory holds
five bytes a row: the results alone.

Shapes: N rows of the file or of a track, T steps.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Final, Self

import numpy as np

from client.journal import Score
from client.likeness import quantities_of
from reentry.decision import NO_ONSET
from reentry.errors import TrackFileError
from reentry.files import whole_file
from reentry.schema import PHASE, PROBABILITY
from reentry.tracks import ReadReport, Track
from reentry.tracks.formats import CSV_SUFFIXES, file_format

ROWS_AT_ONCE: Final = 65_536
_UNSCORED: Final = 255
_BOM: Final = "\xef\xbb\xbf"  # UTF-8's byte order mark, as `_ENCODING` shows it
_ENCODING: Final = "latin-1"  # every byte is a character of it, so whatever the file's own encoding, its text survives


class RowResults:
    """Probability and phase of each row of a file."""

    def __init__(self, row_count: int) -> None:
        self.probability = np.full(row_count, np.nan, dtype=np.float32)
        """(N,), NaN where the row was not scored."""
        self._phase = np.full(row_count, _UNSCORED, dtype=np.uint8)

    def take(self, track: Track, score: Score) -> None:
        """Spread the result of each step over the rows that became it."""
        self.probability[track.rows] = score.probability[track.steps]
        self._phase[track.rows] = score.phase[track.steps]

    def text(self, start: int, stop: int) -> Iterator[str]:
        """The two columns of rows start ... stop - 1, as they follow the user's own in a CSV line."""
        probabilities, phases = self.probability[start:stop].tolist(), self._phase[start:stop].tolist()
        for probability, phase in zip(probabilities, phases, strict=True):
            yield "," if phase == _UNSCORED else f"{probability:.6f},{phase}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """One scored track without its steps: a line of `onsets.csv` and of `inference.jsonl`."""

    track_id: int
    first_row: int
    """Where in the file the track first appears."""
    rows: int
    onset_row: int | None
    """Zero-based among the track's own rows in time order; None if it never enters reentry."""
    onset_timestamp: float | None
    """s."""
    model_version: int
    inference_seconds: float
    tracks_in_request: int
    time: str
    unlike_training: tuple[str, ...] | None
    """Quantities outside the range of the training; None if the server does not know."""

    @classmethod
    def of(cls, track: Track, score: Score) -> Self:
        """Put the server's answer in terms of the file's rows; an onset at a filled-in step is at the next row."""
        found = score.onset_step != NO_ONSET
        return cls(
            track_id=track.track_id,
            first_row=int(track.rows.min()),
            rows=len(track.rows),
            onset_row=int(np.searchsorted(track.steps, score.onset_step)) if found else None,
            onset_timestamp=score.onset_timestamp if found else None,
            model_version=score.model_version,
            inference_seconds=score.inference_seconds,
            tracks_in_request=score.tracks_in_request,
            time=score.time,
            unlike_training=quantities_of(score.unlike_training),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFiles:
    """Where the results are."""

    predictions: Path
    onsets: Path
    inference: Path
    set_aside: Path | None
    """None if every row was scored."""

    @classmethod
    def of(cls, folder: Path) -> OutputFiles:
        """Every file that a run may write into `folder`."""
        return cls(
            predictions=folder / "predictions.csv",
            onsets=folder / "onsets.csv",
            inference=folder / "inference.jsonl",
            set_aside=folder / "set_aside.csv",
        )


def write_outputs(folder: Path, *, report: ReadReport, rows: RowResults, tracks: Iterable[TrackResult]) -> OutputFiles:
    """Write all files into `folder`; they take their names together at the end, over those of an earlier run.

    Args:
        folder: where to.
        report: of the file that was scored, and of every track of it that was set aside.
        rows: the results by row.
        tracks: the results by track, in any order.

    Raises:
        TrackFileError: the file has not the rows it had when it was scored.
    """
    files = OutputFiles.of(folder)
    if not report.set_aside:
        files = replace(files, set_aside=None)
    in_order = sorted(tracks, key=lambda track: track.first_row)
    with ExitStack() as stack:
        _write_onsets(stack.enter_context(whole_file(files.onsets)), in_order)
        _write_inference(stack.enter_context(whole_file(files.inference)), in_order)
        if files.set_aside is not None:
            report.write_set_aside(stack.enter_context(whole_file(files.set_aside)))
        _write_predictions(stack.enter_context(whole_file(files.predictions)), report.path, rows)
    if files.set_aside is None:
        (folder / "set_aside.csv").unlink(missing_ok=True)
    return files


def _write_predictions(path: Path, source: Path, rows: RowResults) -> None:
    lines = row_texts(source)
    with path.open("w", encoding=_ENCODING, newline="") as out:
        out.write(_header(next(lines)) + "\n")
        total = len(rows.probability)
        for start in range(0, total, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, total)
            chunk = list(islice(lines, stop - start))
            if len(chunk) < stop - start:
                raise _changed(source, total)
            out.writelines(f"{line},{text}\n" for line, text in zip(chunk, rows.text(start, stop), strict=True))
        if next(lines, None) is not None:
            raise _changed(source, total)


def _header(given: str) -> str:
    """The user's header with the two new columns; a column of the same name, as labels have, is kept as `<name>_given`.

    Readers differ in which of two columns of one name they take, so a label could pass for a prediction.
    """
    added = (PROBABILITY.name, PHASE.name)
    text = given.removeprefix(_BOM)
    names = _fields(text)
    if set(names).isdisjoint(added):
        return ",".join((given, *added))
    kept = [f"{name}_given" if name in added else name for name in names]
    return given[: len(given) - len(text)] + _csv_line([*kept, *added])


def _write_onsets(path: Path, tracks: Iterable[TrackResult]) -> None:
    with path.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        columns = ("track_id", "onset_row", "onset_timestamp", "rows", "model_version")
        writer.writerow(columns)
        writer.writerows([getattr(track, column) for column in columns] for track in tracks)  # None is an empty field


def _write_inference(path: Path, tracks: Iterable[TrackResult]) -> None:
    with path.open("w") as out:
        for track in tracks:
            line = {
                "track_id": track.track_id,
                "rows": track.rows,
                "onset_row": track.onset_row,
                "onset_timestamp": track.onset_timestamp,
                "inference_seconds": track.inference_seconds,
                "tracks_in_request": track.tracks_in_request,
                "model_version": track.model_version,
                "time": track.time,
                "unlike_training": track.unlike_training,
            }
            out.write(json.dumps(line) + "\n")


def _csv_line(fields: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(fields)
    return buffer.getvalue()


def _changed(source: Path, total: int) -> TrackFileError:
    return TrackFileError(
        "changed while it was scored", where=str(source), expected=f"{total} rows", fix="score it again"
    )


def row_texts(source: Path) -> Iterator[str]:
    """The header of a CSV or Parquet file, then its rows, as CSV text without line ends; blank lines are no rows."""
    if file_format(source) in CSV_SUFFIXES:
        with source.open(encoding=_ENCODING, newline="") as lines:
            mark = lines.read(len(_BOM))
            if mark != _BOM:
                mark = ""
                lines.seek(0)
            records = _records(lines)
            header = next(records)
            yield mark + header
            width = len(_fields(header))
            for record in records:
                # Splitting a record takes several times as long as counting, which is enough where nothing is quoted.
                plain = '"' not in record and record.count(",") == width - 1
                yield record if plain else _fitted(record, width)
    else:
        yield from _parquet_texts(source)


def _fitted(record: str, width: int) -> str:
    """Bring a ragged row to `width` fields, so that what is appended stands under its own name."""
    fields = _fields(record)
    if len(fields) == width:
        return record
    return _csv_line((fields + [""] * width)[:width])


def _fields(record: str) -> list[str]:
    return next(csv.reader([record]))


def _records(lines: Iterator[str]) -> Iterator[str]:
    """Join the lines that a quoted field spans; a line is blank where pandas, which read the tracks, finds it so."""
    for line in lines:
        if '"' in line:
            consumed: list[str] = []
            next(csv.reader(_noting(chain([line], lines), consumed)))
            yield "".join(consumed).rstrip("\r\n")
        elif line.strip(" \t\r\n"):
            yield line.rstrip("\r\n")


def _noting(lines: Iterable[str], consumed: list[str]) -> Iterator[str]:
    for line in lines:
        consumed.append(line)
        yield line


def _parquet_texts(source: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source) as file:
        yield _csv_line(file.schema_arrow.names)
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            buffer = pa.BufferOutputStream()
            pyarrow.csv.write_csv(batch, buffer, write_options=options)
            yield from _records(io.StringIO(buffer.getvalue().to_pybytes().decode(_ENCODING), newline=""))
