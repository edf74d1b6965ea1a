"""A model repository in a folder; see `registry.store`.

What is on its way in or out is in a folder with a dot before its name. A command that is killed leaves it behind, and
the next export removes it: the lock on such a folder goes with the process that made it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from reentry.errors import RepositoryError
from reentry.runtime.files import whole_file
from reentry.schema import REENTRY_LSTM
from reentry.serving.repository import installed_versions
from registry.store import Stored, changed_meanwhile, require_finished, sha256_of

OLD_SECONDS: Final = 24 * 3600.0
"""What another machine made is taken for left when it did not change for so long: no export takes a day to copy."""

_INCOMING: Final = ".incoming-"
_REMOVED: Final = ".removed-"
_HOST: Final = socket.gethostname()


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

    def fetch(self, version: int, folder: Path) -> None:
        """See `VersionStore`."""
        source = self._folder / str(version)
        with _reading(source):
            shutil.copytree(source, folder)

    def install(self, folder: Path, version: int) -> str:
        """See `VersionStore`."""
        require_finished(folder, version)
        target = self._folder / str(version)
        self._clear_up()
        try:
            with self._scratch(_INCOMING) as staging:
                for path in sorted(folder.iterdir()):
                    shutil.copyfile(path, staging / path.name)
                    (staging / path.name).chmod(0o644)
                staging.chmod(0o755)  # mkdtemp's 0700 would hide the version from a server that runs as another user
                staging.rename(target)
        except OSError as error:
            if target.exists():  # a folder that is not empty is there by now
                raise FileExistsError(target) from error
            raise _takes_no_files(target, error) from error
        return str(target)

    def remove(self, version: int) -> None:
        """See `VersionStore`. It loses its number by one rename, so that nobody sees half of it."""
        target = self._folder / str(version)
        try:
            with self._scratch(_REMOVED) as grave:
                target.rename(grave / target.name)
        except OSError as error:
            raise RepositoryError(
                f"cannot be removed: {error.strerror or error}",
                where=str(target),
                fix="do it where the repository takes changes",
            ) from error

    @contextmanager
    def _scratch(self, prefix: str) -> Iterator[Path]:
        """A folder beside the versions, locked; what is left of it goes when the block ends."""
        with ExitStack() as stack:
            with _locked(self._folder):  # so that nobody clears it up before its own lock is on
                scratch = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{prefix}{_HOST}-"))
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                stack.enter_context(_locked(scratch))
            yield scratch

    def _clear_up(self) -> None:
        """Remove what killed commands left; what cannot be looked at or removed stays."""
        with suppress(OSError), _locked(self._folder):
            for path in self._folder.iterdir():
                if path.name.startswith((_INCOMING, _REMOVED)) and _is_left(path):
                    shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other command of this machine is inside."""
        with ExitStack() as stack:
            try:
                stack.enter_context(_locked(self._folder))
            except OSError as error:
                raise _takes_no_files(self._folder, error) from error
            yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes of this machine; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: what is compared before a write still stands
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_left(scratch: Path) -> bool:
    """Whether the process that made it is gone.

    A free lock says so on the machine that made it. Another may share the files and not the locks, and some file
    systems have none: there only age tells.
    """
    try:
        handle = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if scratch.name.removeprefix(_INCOMING).removeprefix(_REMOVED).startswith(f"{_HOST}-"):
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        age = time.time() - os.fstat(handle).st_mtime
        os.close(handle)
    return age > OLD_SECONDS


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
