"""Result files of a scored file: predictions for each row, onsets, the inference log, and rows that were set aside.

The rows of the input are read a second time and copied as text. No digit of the user's file changes, and only the
results are held in memory, five bytes for each row.

Shapes: N rows of the file or of a track, T steps.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Self

import numpy as np

from client.journal import Score
from client.training_comparison import quantities_of
from reentry.decision import NO_ONSET
from reentry.errors import TrackFileError
from reentry.runtime.files import whole_file
from reentry.schema import PHASE, PROBABILITY
from reentry.tracks import ReadReport, Track, fingerprint
from reentry.tracks.csv_records import BYTE_ORDER_MARK, ENCODING, csv_line, fields_of
from reentry.tracks.sources import row_texts

ROWS_AT_ONCE: Final = 65_536
NOT_SCORED: Final = 255
"""Value of the phase in a row that was not scored."""


class RowResults:
    """Probability and phase for each row of a file."""

    def __init__(self, row_count: int) -> None:
        self.probability = np.full(row_count, np.nan, dtype=np.float32)
        """Probability of each row, (N,); NaN if the row was not scored."""
        self.phase = np.full(row_count, NOT_SCORED, dtype=np.uint8)
        """Phase of each row, (N,); `NOT_SCORED` if the row was not scored."""

    def take(self, track: Track, score: Score) -> None:
        """Set the rows of a track from the results of its steps."""
        self.probability[track.rows] = score.probability[track.steps]
        self.phase[track.rows] = score.phase[track.steps]

    def text(self, start: int, stop: int) -> Iterator[str]:
        """Format the results of rows start ... stop - 1 as the last two cells of their CSV lines."""
        probabilities, phases = self.probability[start:stop].tolist(), self.phase[start:stop].tolist()
        for probability, phase in zip(probabilities, phases, strict=True):
            yield "," if phase == NOT_SCORED else f"{probability:.6f},{phase}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """Result of one track without its steps: a line of `onsets.csv` and of `inference.jsonl`."""

    track_id: int
    first_row: int
    """Row of the file where the track first appears, zero-based."""
    rows: int
    """Number of rows of the track."""
    onset_row: int | None
    """Zero-based row of the onset among the track's rows in time order; None if it never enters reentry."""
    onset_timestamp: float | None
    """Unix time of the onset, s; None without an onset."""
    model_version: int
    inference_seconds: float
    tracks_in_request: int
    time: str
    unlike_training: tuple[str, ...] | None
    """Names of the quantities outside the training range; None if the track was not compared."""

    @classmethod
    def of(cls, track: Track, score: Score) -> Self:
        """Convert steps into rows of the file. An onset at a step that was filled in is at the next row."""
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
    """Paths of the result files."""

    predictions: Path
    onsets: Path
    inference: Path
    set_aside: Path | None
    """None if every row was scored."""

    @classmethod
    def of(cls, folder: Path) -> OutputFiles:
        """Return the paths of all files that a run may write into `folder`."""
        return cls(
            predictions=folder / "predictions.csv",
            onsets=folder / "onsets.csv",
            inference=folder / "inference.jsonl",
            set_aside=folder / "set_aside.csv",
        )

    def paths(self) -> list[Path]:
        """Return the paths that are not None."""
        paths = (self.predictions, self.onsets, self.inference, self.set_aside)
        return [path for path in paths if path is not None]


def write_outputs(
    folder: Path, *, report: ReadReport, source: str, rows: RowResults, tracks: Iterable[TrackResult]
) -> OutputFiles:
    """Write all result files into `folder`. At the end they replace the files of an earlier run together.

    Args:
        folder: folder of the results.
        report: report of reading the file, with all tracks that were set aside.
        source: `fingerprint` of the file before it was read.
        rows: results by row.
        tracks: results by track, in any order.

    Raises:
        TrackFileError: the file has changed since then, or cannot be read; nothing is written.
    """
    files = OutputFiles.of(folder)
    if not report.set_aside:
        files = replace(files, set_aside=None)
    in_order = sorted(tracks, key=lambda track: track.first_row)
    with ExitStack() as stack:
        _write_onsets(stack.enter_context(whole_file(files.onsets)), in_order)
        _write_inference(stack.enter_context(whole_file(files.inference)), in_order)
        if files.set_aside is not None:
            with stack.enter_context(whole_file(files.set_aside)).open("w", encoding=ENCODING, newline="") as out:
                out.writelines(report.lines_set_aside())
        _write_predictions(stack.enter_context(whole_file(files.predictions)), report.path, rows)
        if fingerprint(report.path) != source:
            raise TrackFileError("changed while it was scored", where=str(report.path), fix="score it again")
    if files.set_aside is None:
        (folder / "set_aside.csv").unlink(missing_ok=True)
    return files


def _write_predictions(path: Path, source: Path, rows: RowResults) -> None:
    lines = row_texts(source)
    with path.open("w", encoding=ENCODING, newline="") as out:
        out.write(_header(next(lines)) + "\n")
        total, written = len(rows.probability), 0
        for start in range(0, total, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, total)
            chunk = list(islice(lines, stop - start))
            out.writelines(f"{line},{text}\n" for line, text in zip(chunk, rows.text(start, stop), strict=False))
            written += len(chunk)
        if written < total or next(lines, None) is not None:
            raise TrackFileError(
                "changed while it was scored", where=str(source), expected=f"{total} rows", fix="score it again"
            )


def _header(line: str) -> str:
    """Append the two result columns to the user's header, and rename columns of the same name to `<name>_given`.

    Readers differ in which of two columns with one name they use, so a label could be taken for a prediction.
    """
    added = (PROBABILITY.name, PHASE.name)
    text = line.removeprefix(BYTE_ORDER_MARK)
    names = [name.strip() for name in fields_of(text)]
    if set(names).isdisjoint(added):
        return ",".join((line, *added))
    taken = {*names, *added}
    renamed = []
    for name in names:
        if name in added:
            while name in taken:
                name += "_given"
            taken.add(name)
        renamed.append(name)
    return line[: len(line) - len(text)] + csv_line([*renamed, *added])


def _write_onsets(path: Path, tracks: Iterable[TrackResult]) -> None:
    with path.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        columns = ("track_id", "onset_row", "onset_timestamp", "rows", "model_version")
        writer.writerow(columns)
        writer.writerows([getattr(track, column) for column in columns] for track in tracks)


def _write_inference(path: Path, tracks: Iterable[TrackResult]) -> None:
    columns = (
        *("track_id", "rows", "onset_row", "onset_timestamp", "inference_seconds", "tracks_in_request"),
        *("model_version", "time", "unlike_training"),
    )
    with path.open("w") as out:
        for track in tracks:
            line = {column: getattr(track, column) for column in columns}
            out.write(json.dumps(line) + "\n")
