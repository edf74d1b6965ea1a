"""Journal of scored tracks on disk, from which an interrupted run resumes.

The journal is append-only, in the format of `reentry.runtime.records`. Its first record identifies the input; each
further record holds one scored track. A record that a crash left incomplete is detected and removed. The file is
locked, so that two runs cannot write to the same journal.

Shapes: T steps.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import InputError
from reentry.refinement import RefinedOnset
from reentry.runtime.files import writing
from reentry.runtime.records import encode_record, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The server's result for one track."""

    track_id: int
    onset_step: int
    """First step of reentry, or `decision.NO_ONSET`."""
    onset_timestamp: float | None
    """Unix time of the onset, s; None without an onset."""
    refinement: RefinedOnset | None = None
    """The onset by the measurements after the alarm; None if it is unknown."""
    model_version: int
    inference_seconds: float
    """Time from sending the request with this track to its answer, s."""
    tracks_in_request: int
    time: str
    """Time of the answer, UTC, ISO 8601."""
    unlike_training: str | None = None
    """Quantities of the track outside the range of the training data, in the format of
    `reentry.training_range.to_json`; empty if the server has no training range, None if the track was not compared."""
    probability: npt.NDArray[np.float32] = field(repr=False)
    """Probability of reentry at each step, (T,)."""
    phase: npt.NDArray[np.uint8] = field(repr=False)
    """Phase at each step, (T,): 1 in reentry, 0 before."""


_SCALARS: Final = tuple(each.name for each in fields(Score) if each.name not in ("probability", "phase"))


class Journal:
    """Scored tracks of one run by track id, on disk."""

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        """Open a journal or create it, and read the scores that an earlier run with the same identity left.

        Args:
            path: file of the journal; its folder exists.
            identity: identifies the input; a journal with another identity is discarded.

        Raises:
            InputError: another run holds the journal, or it cannot be written.
        """
        self._identity = json.dumps(dict(identity)).encode()
        self._path = path
        self._offsets: dict[int, int] = {}
        self.outdated = False
        """Whether a journal with another identity was discarded."""
        with writing(path):
            if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
                raise InputError("not a regular file", where=str(path), fix="remove it, or give another --out")
            # O_NOFOLLOW: a symbolic link may have appeared since the check.
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file.fileno()).st_nlink:
                raise BlockingIOError  # the run that held the lock has just ended and removed the file
        except OSError:
            self._file.close()
            raise InputError(
                "another run is writing here", where=str(path.parent), fix="wait for it to end, or give another --out"
            ) from None
        self._replay()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):  # closing writes what a full disk has not accepted before
            self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, track_id: int) -> bool:
        return track_id in self._offsets

    def __getitem__(self, track_id: int) -> Score:
        self._file.seek(self._offsets[track_id])
        body = read_record(self._file)
        assert body is not None
        head, _, arrays = body.partition(b"\n")
        scalars: dict[str, Any] = json.loads(head)
        refinement = scalars.pop("refinement", None)  # journals of earlier releases have none
        steps = len(arrays) // 5  # four bytes of probability, one of phase
        return Score(
            **scalars,
            refinement=None if refinement is None else RefinedOnset(*refinement),
            probability=np.frombuffer(arrays, dtype=np.float32, count=steps),
            phase=np.frombuffer(arrays, dtype=np.uint8, offset=4 * steps),
        )

    def append(self, score: Score) -> None:
        """Add one scored track. It survives the end of this process after `flush`.

        Raises:
            InputError: the disk is full.
        """
        body = json.dumps({name: getattr(score, name) for name in _SCALARS}).encode()
        body += b"\n" + score.probability.tobytes() + score.phase.tobytes()
        self._offsets[score.track_id] = self._write_record(body)

    def flush(self) -> None:
        """Pass all appended records to the operating system."""
        with writing(self._path):
            self._file.flush()

    def restart(self) -> None:
        """Remove all scores."""
        self._file.truncate(0)
        self._offsets.clear()
        self._write_record(self._identity)
        self.flush()

    def remove(self) -> None:
        """Delete the file at the end of a complete run."""
        self._path.unlink()

    def _replay(self) -> None:
        self._file.seek(0)
        records = self._records()
        _, first = next(records, (0, b""))
        if first != self._identity:
            self.outdated = bool(first)
            self.restart()
            return
        for offset, body in records:
            self._offsets[int(json.loads(body.partition(b"\n")[0])["track_id"])] = offset
        self._file.truncate()  # removes an incomplete record behind the last complete one

    def _records(self) -> Iterator[tuple[int, bytes]]:
        while True:
            offset = self._file.tell()
            body = read_record(self._file)
            if body is None:
                self._file.seek(offset)
                return
            yield offset, body

    def _write_record(self, body: bytes) -> int:
        """Write a record at the end and return its offset."""
        offset = self._file.seek(0, 2)
        with writing(self._path):
            self._file.write(encode_record(body))
        return offset
