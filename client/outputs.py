"""Result files of a scored file: predictions for each row, onsets, the inference log, and rows that were set aside.

The rows of the input are read a second time and copied as text. No digit of the user's file changes. The results of
the rows, five bytes each, are held in memory, or in a temporary file if there are many.

Shapes: N rows of the file or of a track, T steps.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from client.journal import Score
from client.training_comparison import quantities_of
from reentry.decision import NO_ONSET
from reentry.errors import TrackFileError
from reentry.runtime.ahead import one_ahead
from reentry.runtime.files import whole_file, writing
from reentry.runtime.scratch import ScratchArray
from reentry.schema import HINDSIGHT, PHASE, PROBABILITY, REFINED_DEVIATION, REFINED_ONSET
from reentry.tracks import ReadReport, Track
from reentry.tracks.csv_records import BYTE_ORDER_MARK, csv_line, fields_of
from reentry.tracks.sources import RowTexts
from reentry.tracks.text_blocks import ENCODING

NOT_SCORED: Final = 255
"""Value of the phase in a row that was not scored."""

REFINED: Final = (REFINED_ONSET.name, REFINED_DEVIATION.name, HINDSIGHT.name)
"""Columns of the refined onset."""

_ROWS_IN_MEMORY: Final = 2**22

Bytes = npt.NDArray[np.uint8]


class RowResults:
    """Probability and phase for each row of a file."""

    def __init__(self, row_count: int) -> None:
        """Mark every row as not scored.

        Raises:
            InputError: the temporary folder has no room for the results of a large file.
        """
        with writing(Path(tempfile.gettempdir())):
            self._scratch = ScratchArray(row_count, np.float32(np.nan)), ScratchArray(row_count, np.uint8(NOT_SCORED))
        self.probability: npt.NDArray[np.float32] = self._scratch[0].values
        """Probability of each row, (N,); NaN if the row was not scored."""
        self.phase: npt.NDArray[np.uint8] = self._scratch[1].values
        """Phase of each row, (N,); `NOT_SCORED` if the row was not scored."""
        self._touched = 0

    def take(self, track: Track, score: Score) -> None:
        """Set the rows of a track from the results of its steps."""
        self.probability[track.rows] = score.probability[track.steps]
        self.phase[track.rows] = score.phase[track.steps]
        self._bound_memory(len(track.rows))

    def _bound_memory(self, rows: int) -> None:
        """Release the memory of the arrays whenever another `_ROWS_IN_MEMORY` rows have been written or read."""
        self._touched += rows
        if self._touched >= _ROWS_IN_MEMORY:
            self._touched = 0
            for each in self._scratch:
                each.release()

    def cells(self, start: int, stop: int) -> tuple[Bytes, npt.NDArray[np.bool_]]:
        """Format the results of rows start ... stop - 1 as the last two cells of their CSV lines.

        Returns:
            A tuple of two arrays for R rows and K characters. First, the ASCII text of each row such as ",0.250000,1",
            (R, K). Second, whether the character is part of the row, (R, K). A row that was not scored has two commas.
        """
        self._bound_memory(stop - start)
        phase = self.phase[start:stop]
        scored = phase != NOT_SCORED
        text = np.tile(np.frombuffer(b",0.000000,0", np.uint8), (len(phase), 1))
        # The product is exact in float64, so that its rounding is that of the format ".6f".
        probability = np.where(scored, self.probability[start:stop], 0.0).astype(np.float64)
        left = np.rint(probability * 1e6).astype(np.uint32)
        for place in (8, 7, 6, 5, 4, 3, 1):
            left, digit = np.divmod(left, np.uint32(10))
            text[:, place] += digit.astype(np.uint8)
        text[:, -1] += np.where(scored, phase, 0).astype(np.uint8)
        used = np.ones(text.shape, dtype=np.bool_)
        text[~scored, :2] = ord(",")
        used[~scored, 2:] = False
        return text, used


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
    refined_onset_timestamp: float | None = None
    """Unix time of the onset by the measurements after the alarm, s; None if it is unknown."""
    refined_onset_deviation: float | None = None
    """Standard deviation of the refined onset, s."""
    hindsight_seconds: float | None = None
    """Time from the onset to the last measurement of the refined onset, s."""
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
        refined, deviation, hindsight = score.refinement or (None, None, None)
        return cls(
            track_id=track.track_id,
            first_row=int(track.rows.min()),
            rows=len(track.rows),
            onset_row=int(np.searchsorted(track.steps, score.onset_step)) if found else None,
            onset_timestamp=score.onset_timestamp if found else None,
            refined_onset_timestamp=refined,
            refined_onset_deviation=deviation,
            hindsight_seconds=hindsight,
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
        texts = RowTexts(report.path)
        written = _write_predictions(stack.enter_context(whole_file(files.predictions)), texts, rows)
        if written != len(rows.probability) or texts.fingerprint != source:
            raise TrackFileError(
                "changed while it was scored",
                where=str(report.path),
                expected=f"{len(rows.probability)} rows" if written != len(rows.probability) else None,
                fix="score it again",
            )
    if files.set_aside is None:
        (folder / "set_aside.csv").unlink(missing_ok=True)
    return files


def _write_predictions(path: Path, texts: RowTexts, rows: RowResults) -> int:
    """Write the rows of the file with their results, and return their number; it stops if the file has too many."""
    total, written = len(rows.phase), 0
    with path.open("wb") as out:
        out.write(f"{_header(texts.header)}\n".encode(ENCODING))
        for lines, ends in one_ahead(block.row_bytes() for block in texts.blocks()):
            start, written = written, written + len(ends)
            if written > total:
                break
            out.write(_appended(lines, ends, *rows.cells(start, written)).data)
    return written


def _appended(lines: Bytes, ends: npt.NDArray[np.int64], cells: Bytes, used: npt.NDArray[np.bool_]) -> Bytes:
    """Append cells to R lines.

    Args:
        lines: Characters of all lines, (N,).
        ends: Position behind the newline of each line, (R,).
        cells: Characters to append to each line, (R, K).
        used: Whether the character is to be appended, (R, K); the first ones of each line are.
    """
    lengths = used.sum(axis=1)
    places = ((ends - 1 + np.cumsum(lengths) - lengths)[:, None] + np.arange(cells.shape[1]))[used]
    result = np.empty(len(lines) + len(places), dtype=np.uint8)
    is_line = np.ones(len(result), dtype=np.bool_)
    is_line[places] = False
    result[places] = cells[used]
    result[is_line] = lines
    return result


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
        columns = ("track_id", "onset_row", "onset_timestamp", *REFINED, "rows", "model_version")
        writer.writerow(columns)
        writer.writerows([getattr(track, column) for column in columns] for track in tracks)


def _write_inference(path: Path, tracks: Iterable[TrackResult]) -> None:
    columns = (
        *("track_id", "rows", "onset_row", "onset_timestamp", *REFINED),
        *("inference_seconds", "tracks_in_request", "model_version", "time", "unlike_training"),
    )
    with path.open("w") as out:
        for track in tracks:
            line = {column: getattr(track, column) for column in columns}
            out.write(json.dumps(line) + "\n")
