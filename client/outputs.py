"""What a scored file leaves behind: its rows with probability and phase, its onsets, its log, what was set aside.

The rows are read a second time and written as they stand, so that no digit of the user's file changes and memory holds
five bytes a row: the results alone.

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
from client.likeness import quantities_of
from reentry.decision import NO_ONSET
from reentry.errors import TrackFileError
from reentry.runtime.files import whole_file
from reentry.schema import PHASE, PROBABILITY
from reentry.tracks import ReadReport, Track, fingerprint
from reentry.tracks.csv_records import BYTE_ORDER_MARK, ENCODING, csv_line, fields_of
from reentry.tracks.sources import row_texts

ROWS_AT_ONCE: Final = 65_536
_UNSCORED: Final = 255


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

    def paths(self) -> list[Path]:
        """Return the files that are there."""
        paths = (self.predictions, self.onsets, self.inference, self.set_aside)
        return [path for path in paths if path is not None]


def write_outputs(
    folder: Path, *, report: ReadReport, source: str, rows: RowResults, tracks: Iterable[TrackResult]
) -> OutputFiles:
    """Write all files into `folder`; they take their names together at the end, over those of an earlier run.

    Args:
        folder: where to.
        report: of the file that was scored, and of every track of it that was set aside.
        source: `fingerprint` of that file, taken before it was read.
        rows: the results by row.
        tracks: the results by track, in any order.

    Raises:
        TrackFileError: the file is not the one that was scored, or cannot be read; nothing is written.
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
    text = given.removeprefix(BYTE_ORDER_MARK)
    names = [name.strip() for name in fields_of(text)]
    if set(names).isdisjoint(added):
        return ",".join((given, *added))
    taken = {*names, *added}
    kept = []
    for name in names:
        if name in added:
            while name in taken:
                name += "_given"
            taken.add(name)
        kept.append(name)
    return given[: len(given) - len(text)] + csv_line([*kept, *added])


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


def _changed(source: Path, total: int) -> TrackFileError:
    return TrackFileError(
        "changed while it was scored", where=str(source), expected=f"{total} rows", fix="score it again"
    )
