"""Files of jobs in a folder; see `gateway.jobs.files.store`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from client.predict import JOURNAL_NAME
from gateway.jobs.files.store import StoreError, Upload

_JOB: Final = re.compile(r"job_[0-9a-z]+")


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
            if int(folder.name) < fence:
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
        return [path for path in (self._root / job_id).glob("[0-9]*") if path.name.isdecimal() and path.is_dir()]


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
