"""What has been scored, kept on disk while a file is being scored, so that an interrupted run goes on where it was.

The journal is append-only: a first record says what is being scored, each further one holds a scored track. A record is
its length and its CRC-32 (both little-endian, 4 bytes) and then its body, so that one torn by a crash is recognised and
cut off. The file is locked: two runs cannot write into the same one.

Shapes: T steps.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from reentry.errors import InputError
from reentry.runtime.files import writing

_HEAD: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the server said of one track."""

    track_id: int
    onset_step: int
    """First step of reentry, `decision.NO_ONSET` if there is none."""
    onset_timestamp: float | None
    """Unix time of that step, s."""
    model_version: int
    inference_seconds: float
    """From sending the request that carried the track to its answer."""
    tracks_in_request: int
    time: str
    """When the answer came, ISO 8601, UTC."""
    unlike_training: str | None = None
    """What of the track lies outside the range of the training, as `reentry.training_range.to_json` writes it; None if
    the server does not know."""
    probability: npt.NDArray[np.float32] = field(repr=False)
    """(T,)"""
    phase: npt.NDArray[np.uint8] = field(repr=False)
    """(T,)"""


_PLAIN_FIELDS: Final = tuple(each.name for each in fields(Score) if each.name not in ("probability", "phase"))


class Journal:
    """The scored tracks of one run, by track id."""

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        """Open the journal, or begin one; what an earlier run of the same identity scored is there again.

        Args:
            path: the file; its folder exists.
            identity: what is scored; a journal of another identity is begun anew.

        Raises:
            InputError: another run holds the journal, or it cannot be written.
        """
        self._identity = dict(identity)
        self._path = path
        self._places: dict[int, int] = {}
        self.outdated = False
        """A journal was there, but of another identity."""
        with writing(path):
            if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
                raise InputError("not a regular file", where=str(path), fix="remove it, or give another --out")
            # Also if a symbolic link comes there meanwhile, what it leads to is not written to.
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file.fileno()).st_nlink:
                raise BlockingIOError  # the run that had the lock has just ended, and removed the file
        except OSError:
            self._file.close()
            raise InputError(
                "another run is writing here", where=str(path.parent), fix="wait for it, or give another --out"
            ) from None
        self._replay()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):  # what a full disk did not take is still to be written
            self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, track_id: int) -> bool:
        return track_id in self._places

    def __getitem__(self, track_id: int) -> Score:
        self._file.seek(self._places[track_id])
        body = self._read_record()
        assert body is not None
        head, _, arrays = body.partition(b"\n")
        plain: dict[str, Any] = json.loads(head)
        steps = len(arrays) // 5  # four bytes of probability, one of phase
        return Score(
            **plain,
            probability=np.frombuffer(arrays, dtype=np.float32, count=steps),
            phase=np.frombuffer(arrays, dtype=np.uint8, offset=4 * steps),
        )

    def append(self, score: Score) -> None:
        """Keep one scored track; after `flush` it outlives this process.

        Raises:
            InputError: the disk is full.
        """
        body = json.dumps({name: getattr(score, name) for name in _PLAIN_FIELDS}).encode()
        body += b"\n" + score.probability.tobytes() + score.phase.tobytes()
        self._places[score.track_id] = self._write_record(body)

    def flush(self) -> None:
        """Hand what was appended to the operating system."""
        with writing(self._path):
            self._file.flush()

    def restart(self) -> None:
        """Forget everything scored."""
        self._file.truncate(0)
        self._places.clear()
        self._write_record(json.dumps(self._identity).encode())
        self.flush()

    def remove(self) -> None:
        """Delete the file: the run is done."""
        self._path.unlink()

    def _replay(self) -> None:
        self._file.seek(0)
        records = self._records()
        _, first = next(records, (0, b""))
        if first != json.dumps(self._identity).encode():
            self.outdated = bool(first)
            self.restart()
            return
        for place, body in records:
            self._places[int(json.loads(body.partition(b"\n")[0])["track_id"])] = place
        self._file.truncate()  # a torn record, if there is one, begins where the last whole one ended

    def _records(self) -> Iterator[tuple[int, bytes]]:
        while True:
            place = self._file.tell()
            body = self._read_record()
            if body is None:
                self._file.seek(place)
                return
            yield place, body

    def _read_record(self) -> bytes | None:
        """The record at the current place; None if it is torn or there is none."""
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        body = self._file.read(length)
        return body if len(body) == length and zlib.crc32(body) == checksum else None

    def _write_record(self, body: bytes) -> int:
        place = self._file.seek(0, 2)
        with writing(self._path):
            self._file.write(_HEAD.pack(len(body), zlib.crc32(body)) + body)
        return place
