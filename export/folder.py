"""A model repository in a folder; see `export.store`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from export.store import Stored, changed_meanwhile, require_finished, sha256_of
from reentry.errors import RepositoryError
from reentry.files import whole_file
from reentry.schema import REENTRY_LSTM
from reentry.serving.repository import installed_versions


class FolderStore:
    """Versions as folders under repository/reentry_lstm/."""

    def __init__(self, repository: Path) -> None:
        self.location = str(repository)
        self._folder = repository / REENTRY_LSTM.name

    def place(self, name: str | int) -> str:
        """See `VersionStore`."""
        return str(self._folder / str(name))

    def versions(self) -> list[int]:
        """See `VersionStore`."""
        with _reading(self._folder):
            return installed_versions(self._folder)

    def files(self, version: int) -> dict[str, int]:
        """See `VersionStore`."""
        folder = self._folder / str(version)
        with _reading(folder):
            if not folder.is_dir():
                return {}
            return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}

    def read(self, name: str) -> Stored:
        """See `VersionStore`."""
        path = self._folder / name
        with _reading(path):
            try:
                text = path.read_text()
            except (FileNotFoundError, NotADirectoryError):
                return Stored(None, None)
            except UnicodeDecodeError as error:
                raise RepositoryError("is no text", where=str(path), fix="restore it, or remove it") from error
        return Stored(text, hashlib.sha256(text.encode()).hexdigest())

    def write(self, name: str, text: str, *, over: Stored) -> None:
        """See `VersionStore`."""
        path = self._folder / name
        with self._alone():
            if self.read(name) != over:
                raise changed_meanwhile(str(path))
            with whole_file(path) as part:
                part.write_text(text)

    def sha256(self, version: int, name: str) -> str:
        """See `VersionStore`."""
        path = self._folder / str(version) / name
        with _reading(path):
            return sha256_of(path)

    def install(self, folder: Path, version: int) -> str:
        """See `VersionStore`."""
        require_finished(folder, version)
        target = self._folder / str(version)
        try:
            staging = Path(tempfile.mkdtemp(dir=self._folder, prefix=".incoming-"))
        except OSError as error:
            raise _takes_no_files(self._folder, error) from error
        try:
            for path in sorted(folder.iterdir()):
                shutil.copyfile(path, staging / path.name)
                (staging / path.name).chmod(0o644)
            staging.chmod(0o755)  # mkdtemp's 0700 would hide the version from a server that runs as another user
            staging.rename(target)
        except OSError as error:
            if target.exists():  # a folder that is not empty is there by now
                raise FileExistsError(target) from error
            raise _takes_no_files(target, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return str(target)

    def remove(self, version: int) -> None:
        """See `VersionStore`. It loses its number by one rename, so that nobody sees half of it."""
        target = self._folder / str(version)
        try:
            grave = Path(tempfile.mkdtemp(dir=self._folder, prefix=".removed-"))
            try:
                target.rename(grave / target.name)
            finally:
                shutil.rmtree(grave, ignore_errors=True)
        except OSError as error:
            raise RepositoryError(
                f"cannot be removed: {error.strerror or error}",
                where=str(target),
                fix="do it where the repository takes changes",
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other command of this machine is inside; the lock goes with the process."""
        try:
            handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _takes_no_files(self._folder, error) from error
        try:
            with suppress(OSError):  # a file system without locks: the comparison before the write still stands
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RepositoryError(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def _takes_no_files(place: Path, error: OSError) -> RepositoryError:
    return RepositoryError(
        f"cannot install: {error.strerror or error}",
        where=str(place),
        fix="give a repository with room that takes files with --repository",
    )
