"""Interface of the stores of files.

A job has the folder <job>/ with its upload `source.csv` or `source.parquet`, and a folder <job>/<fence>/ for each lease
that wrote results. The fence of the job's row says which of them count, so a worker that lost its lease without
noticing never overwrites the results of another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, Protocol

from reentry.errors import ReentryError

RESULT_FILES: Final = ("predictions.csv", "onsets.csv", "inference.jsonl", "set_aside.csv", "set_aside.jsonl")
"""Names of the files that a worker writes; the last two exist only if a track was set aside."""


class StoreError(ReentryError):
    """The store of files is unavailable, or a file is missing."""


class Upload(Protocol):
    """An upload in progress, under a temporary name."""

    def write(self, part: bytes) -> None:
        """Add bytes."""

    def commit(self) -> None:
        """Give the upload its name."""

    def discard(self) -> None:
        """Remove what was written. It does nothing after `commit`."""


class JobFiles(Protocol):
    """Store of the files of jobs. All methods block; the event loop calls them in threads.

    Raises:
        StoreError: the store is unavailable.
    """

    def upload(self, job_id: str, name: str) -> Upload:
        """Begin the upload of a job's file."""

    def source(self, job_id: str, name: str, scratch: Path) -> Path:
        """Return the local path of a job's file, which may be a copy in the folder `scratch`."""

    def workplace(self, job_id: str, fence: int, scratch: Path) -> Path:
        """Return a local folder for the results of a lease, with the journal of an earlier lease if there is one."""

    def keep(self, job_id: str, fence: int, folder: Path) -> None:
        """Store the results that were written into the folder of a lease."""

    def size(self, job_id: str, fence: int, name: str) -> int | None:
        """Return the size of a result in bytes; None if there is no such file."""

    def open(self, job_id: str, fence: int, name: str) -> BinaryIO:
        """Open a result for reading."""

    def tidy(self, job_id: str, fence: int) -> None:
        """Remove the folders of the leases before one. Those of later ones stay: the worker may have lost its lease."""

    def discard(self, job_id: str, fence: int) -> None:
        """Remove the folder of a lease that was lost."""

    def remove(self, job_id: str) -> None:
        """Remove all files of a job, if there are any."""

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs with files."""
