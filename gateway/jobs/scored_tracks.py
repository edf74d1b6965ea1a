"""Scored tracks of a job, which the child process writes into a file for the inference log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from client.journal import Score
from gateway.comparison.drift import feature_numbers
from gateway.inference_log.track_row import of_track
from reentry.runtime.records import encode_record, read_record
from reentry.schema import ENSEMBLE, REENTRY_FAST
from reentry.tracks import Track


class ScoredTracks:
    """The scored tracks of one run, in the child process."""

    def __init__(self) -> None:
        self._rows: dict[int, bytes] = {}

    def clear(self) -> None:
        """Forget all tracks, because the run begins again with another model."""
        self._rows.clear()

    def add(self, track: Track, score: Score) -> None:
        """Keep the row of a scored track."""
        row = of_track(
            track.track_id,
            track.measurements,
            largest_probability=float(score.probability.max()),
            onset_timestamp=score.onset_timestamp,
            refined_onset_timestamp=None if score.refinement is None else score.refinement.timestamp,
            model=(REENTRY_FAST if score.unlike_training is None else ENSEMBLE).name,  # only `reentry` compares tracks
            model_version=score.model_version,
            quantities=feature_numbers([track.measurements], [track.track_id])[0],
        )
        row |= {"at": datetime.fromisoformat(score.time).timestamp(), "seconds": score.inference_seconds}
        self._rows[track.track_id] = msgspec.msgpack.encode(row)

    def write(self, path: Path) -> None:
        """Write all rows into a file."""
        with path.open("wb") as file:
            file.writelines(encode_record(row) for row in self._rows.values())


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows in a file of `ScoredTracks`, without the fields of the job."""
    with path.open("rb") as file:
        while (body := read_record(file)) is not None:
            yield msgspec.msgpack.decode(body)
