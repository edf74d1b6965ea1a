"""Spool: records on disk that wait for the database.

Each process has a folder of its own, which it locks. The records are in numbered parts, append-only files in the
format of `reentry.runtime.records`. A record is in the page cache when `append` returns, so a killed process loses
none; `sync` also protects them from a loss of power. The folder of a process that has ended is adopted by another one.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.ids import new_id
from reentry.runtime.records import encode_record, read_record

PART_BYTES: Final = 2**20
"""Bytes after which a new part begins; a part is stored in one transaction."""
_LOCK: Final = "lock"
_SUFFIX: Final = ".part"


@dataclass(slots=True, eq=False)
class Part:
    """One file of a spool."""

    number: int
    path: Path
    size: int = 0
    is_synced: bool = False

    def records(self) -> Iterator[bytes]:
        """Yield the complete records. An incomplete one ends the part."""
        with self.path.open("rb") as file:
            while (body := read_record(file)) is not None:
                yield body


class Spool:
    """Records of one process, in the order in which they came."""

    def __init__(self, folder: Path, lock: int, largest: int) -> None:
        """Use `Spool.create` or `Spool.adopt`."""
        self._folder = folder
        self._lock = lock
        self._largest = largest
        self._open: tuple[int, Part] | None = None
        self.parts = deque(
            Part(int(path.stem), path, path.stat().st_size) for path in sorted(folder.glob(f"*{_SUFFIX}"))
        )
        """Ended parts, the oldest first."""
        self._ended_bytes = sum(part.size for part in self.parts)
        self._count = self.parts[-1].number if self.parts else 0

    @classmethod
    def create(cls, place: Path, largest: int) -> Spool:
        """Create a folder in `place` for this process.

        Args:
            place: folder of all spools.
            largest: bytes that may wait; further records are refused.
        """
        name = new_id("spool")
        hidden = place / f".{name}"  # nobody adopts it before it is locked
        hidden.mkdir(parents=True, mode=0o700)
        lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(hidden.rename(place / name), lock, largest)

    @classmethod
    def adopt(cls, folder: Path) -> Spool | None:
        """Take over the folder of a process that has ended; return None if the process is alive."""
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        if not os.fstat(lock).st_nlink:  # another process adopted and removed it
            os.close(lock)
            return None
        return cls(folder, lock, 0)

    @property
    def name(self) -> str:
        """Name of the spool, which no other spool has."""
        return self._folder.name

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._ended_bytes + (self._open[1].size if self._open else 0)

    def append(self, body: bytes) -> bool:
        """Add a record; return False if the spool or the disk is full."""
        record = encode_record(body)
        if self.size + len(record) > self._largest:
            return False
        try:
            file, part = self._open or self._begin()
            if os.write(file, record) < len(record):
                os.ftruncate(file, part.size)
                return False
        except OSError:
            return False
        part.size += len(record)
        part.is_synced = False
        if part.size >= PART_BYTES:
            self.end_part()
        return True

    def end_part(self) -> None:
        """End the part that is being written, if it has records."""
        if self._open is not None and self._open[1].size:
            file, part = self._open
            os.close(file)
            self._open = None
            self._ended_bytes += part.size
            self.parts.append(part)

    def sync(self) -> None:
        """Write the records to the disk. It may run in another thread."""
        for part in [*self.parts, *([self._open[1]] if self._open else [])]:
            if not part.is_synced:
                part.is_synced = True  # before the call, during which records may be added
                file = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    def remove(self, part: Part) -> None:
        """Delete the oldest ended part, whose records are in the database."""
        part.path.unlink(missing_ok=True)
        self._forget(part)

    def set_aside(self, part: Part, bodies: Iterable[bytes]) -> None:
        """Keep records of a part that cannot be stored in a file `*.unusable` beside it."""
        with part.path.with_suffix(".unusable").open("wb") as file:
            for body in bodies:
                file.write(encode_record(body))
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Release the folder, and remove it if nothing waits in it."""
        self.end_part()
        if not self.parts:
            (self._folder / _LOCK).unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
        os.close(self._lock)

    def _begin(self) -> tuple[int, Part]:
        part = Part(self._count + 1, self._folder / f"{self._count + 1:012d}{_SUFFIX}")
        file = os.open(part.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._count += 1
        self._open = file, part
        return self._open

    def _forget(self, part: Part) -> None:
        assert self.parts[0] is part
        self.parts.popleft()
        self._ended_bytes -= part.size


def abandoned(place: Path) -> Iterator[Spool]:
    """Adopt the spools in a folder whose processes have ended."""
    if place.exists():
        for folder in sorted(place.iterdir()):
            if not folder.name.startswith(".") and (spool := Spool.adopt(folder)) is not None:
                yield spool
