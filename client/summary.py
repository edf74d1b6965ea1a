"""Summary of a scored file, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from client.outputs import OutputFiles
from client.training_comparison import UnlikeTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSummary:
    """Result of scoring a file: counts, model version and places."""

    files: OutputFiles
    rows: int
    """Number of rows in the file."""
    rows_scored: int
    tracks: int
    """Number of scored tracks, `resumed` included."""
    unscored: int = 0
    """Number of valid tracks that were not scored, because the run was stopped."""
    resumed: int
    """Number of tracks that an earlier, interrupted run had scored."""
    onsets: int
    """Number of tracks that enter reentry."""
    set_aside: int
    """Number of tracks that were not scored."""
    rows_set_aside: int
    """Number of rows that were not scored: those of the tracks set aside, and those without a readable track id."""
    model_version: int | None
    """Version of the model; None if no track was scored."""
    seconds: float
    """Time from the first request to the last answer, s, without reading and writing the files."""
    reading_seconds: float
    """Time to read and check the file, s."""
    writing_seconds: float
    """Time to write the results, s."""
    compared: int = 0
    """Number of tracks that the server compared with the training data: all, or a sample."""
    unlike_training: list[UnlikeTraining] | None = None
    """Quantities in which compared tracks lie outside the training range; None if the server cannot compare."""
    notes: str
    """Repairs made and rows set aside while reading, as text."""

    def to_json(self) -> str:
        """Return the summary as a JSON object with paths as text."""
        return json.dumps(asdict(self), default=str)

    def summary(self) -> str:
        """Return the summary as lines of text."""
        lines = [
            f"{_count(self.tracks, 'track')} ({self.rows_scored:,} of {self.rows:,} rows)"
            + f" scored in {self.seconds:.1f} s"
            + (f" by model version {self.model_version}" if self.model_version is not None else "")
            + (f", {self.resumed:,} of them in an earlier run" if self.resumed else ""),
            f"{self.onsets:,} {'enters' if self.onsets == 1 else 'enter'} reentry",
            f"{self.compared:,} tracks compared with the training data" if 0 < self.compared < self.tracks else "",
            self.notes,
            f"results: {self.files.predictions}, {self.files.onsets.name}, {self.files.inference.name}",
        ]
        if self.files.set_aside is not None:
            rows = _count(self.rows_set_aside, "row")
            what = f"{_count(self.set_aside, 'track')}, {rows}" if self.set_aside else f"{rows} of no track"
            lines.append(f"set aside, not scored: {what}, see {self.files.set_aside}")
        return "\n".join(line for line in lines if line)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
