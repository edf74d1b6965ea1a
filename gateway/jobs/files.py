"""Files of jobs: uploads and results, in a folder or in an S3-compatible store.

A job has the folder <job>/ with its upload `source.csv` or `source.parquet`, and a folder <job>/<fence>/ for each lease
that wrote results. The fence of the job's row says which of them count, so a worker that lost its lease without
noticing never overwrites the results of another one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from client.predict import JOURNAL_NAME
from gateway.settings import GatewaySettings
from reentry.errors import ReentryError

RESULT_FILES: Final = ("predictions.csv", "onsets.csv", "inference.jsonl", "set_aside.csv", "set_aside.jsonl")
"""Names of the files that a worker writes; the last two exist only if a track was set aside."""

_JOB: Final = re.compile(r"job_[0-9a-z]+")


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
        """Remove the folders of all leases of an ended job except one."""

    def discard(self, job_id: str, fence: int) -> None:
        """Remove the folder of a lease that was lost."""

    def remove(self, job_id: str) -> None:
        """Remove all files of a job, if there are any."""

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs with files."""


def open_files(settings: GatewaySettings) -> JobFiles:
    """Return the store that the settings name."""
    if settings.store_place.startswith("s3://"):
        from gateway.jobs.s3_files import S3Files

        return S3Files(settings.store_place)
    return FolderFiles(Path(settings.store_place))


class FolderFiles:
    """Store of files in a folder, which several processes and machines may share."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def upload(self, job_id: str, name: str) -> Upload:
        """See `JobFiles`."""
        with folder_errors():
            return _FolderUpload(self._root / job_id, name)

    def source(self, job_id: str, name: str, scratch: Path) -> Path:  # noqa: ARG002
        """See `JobFiles`."""
        return self._root / job_id / name

    def workplace(self, job_id: str, fence: int, scratch: Path) -> Path:  # noqa: ARG002
        """See `JobFiles`.

        The journal is copied, because the worker that wrote it may be alive and may still append to it.
        """
        place = self._root / job_id / str(fence)
        with folder_errors():
            place.mkdir(parents=True)
            journals = [folder / JOURNAL_NAME for folder in self._leases(job_id) if (folder / JOURNAL_NAME).exists()]
            if journals:
                fullest = max(journals, key=lambda journal: journal.stat().st_size)
                shutil.copyfile(fullest, place / "journal.part")
                (place / "journal.part").replace(place / JOURNAL_NAME)
        self.tidy(job_id, fence)
        return place

    def keep(self, job_id: str, fence: int, folder: Path) -> None:
        """See `JobFiles`. The results were written in place; here they are flushed to the disk."""
        del job_id, fence
        with folder_errors():
            for path in (*folder.iterdir(), folder):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def size(self, job_id: str, fence: int, name: str) -> int | None:
        """See `JobFiles`."""
        with suppress(FileNotFoundError), folder_errors():
            return (self._root / job_id / str(fence) / name).stat().st_size
        return None

    def open(self, job_id: str, fence: int, name: str) -> BinaryIO:
        """See `JobFiles`."""
        with folder_errors():
            try:
                return (self._root / job_id / str(fence) / name).open("rb")
            except FileNotFoundError as error:
                raise StoreError("the file is missing", where=f"{job_id}/{fence}/{name}") from error

    def tidy(self, job_id: str, fence: int) -> None:
        """See `JobFiles`."""
        for folder in self._leases(job_id):
            if folder.name != str(fence):
                shutil.rmtree(folder, ignore_errors=True)

    def discard(self, job_id: str, fence: int) -> None:
        """See `JobFiles`."""
        shutil.rmtree(self._root / job_id / str(fence), ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """See `JobFiles`."""
        with suppress(FileNotFoundError), folder_errors():
            shutil.rmtree(self._root / job_id)

    def job_ids(self) -> list[str]:
        """See `JobFiles`."""
        with folder_errors():
            return sorted(path.name for path in self._root.glob("job_*") if _JOB.fullmatch(path.name))

    def _leases(self, job_id: str) -> list[Path]:
        return [path for path in (self._root / job_id).glob("[0-9]*") if path.is_dir()]


class _FolderUpload:
    """An upload into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._committed = False
        folder.mkdir(parents=True, mode=0o700)
        self._file = (folder / "upload.part").open("wb")

    def write(self, part: bytes) -> None:
        """See `Upload`."""
        with folder_errors():
            self._file.write(part)

    def commit(self) -> None:
        """See `Upload`."""
        with folder_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            (self._folder / "upload.part").replace(self._folder / self._name)
        self._committed = True

    def discard(self) -> None:
        """See `Upload`."""
        if not self._committed:
            with suppress(OSError):
                self._file.close()
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def folder_errors() -> Iterator[None]:
    """Convert the errors of a folder, except a missing file, into a StoreError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        # The path stays out of the message, because accounts read it.
        raise StoreError(
            f"the store of files cannot be used: {error.strerror}", fix="free disk space, or grant write permission"
        ) from error
