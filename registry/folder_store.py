"""A model repository in a folder; see `registry.store`.

Versions that are being installed or removed are in scratch folders whose names begin with a dot. A command that is
killed leaves its scratch folder behind, and the next export removes it: the lock on the folder ended with the process.
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
from reentry.runtime.files import sha256_of, whole_file
from reentry.serving.repository import installed_versions
from registry.models import VersionedModel
from registry.store import CONFIG_FILE, Stored, changed_meanwhile, require_finished

OLD_SECONDS: Final = 24 * 3600.0
"""Age in seconds from which a scratch folder of another machine counts as abandoned; no export takes a day to copy."""

_INCOMING: Final = ".incoming-"
_REMOVED: Final = ".removed-"
_HOST: Final = socket.gethostname()


class FolderStore:
    """Versions as folders under <repository>/<model>/."""

    def __init__(self, repository: Path, model: VersionedModel) -> None:
        self.location = str(repository)
        self.model = model
        self._folder = repository / model.name

    def beside(self, model: VersionedModel) -> FolderStore:
        """See `VersionStore`."""
        return FolderStore(Path(self.location), model)

    def place(self, name: str | int) -> str:
        """See `VersionStore`."""
        return str(self._folder / str(name))

    def versions(self) -> list[int]:
        """See `VersionStore`."""
        with _reading(self._folder):
            return installed_versions(self._folder) if self._folder.is_dir() else []

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
                raise RepositoryError(
                    "the file is not text", where=str(path), fix="restore it, or remove it"
                ) from error
        return Stored(text, hashlib.sha256(text.encode()).hexdigest())

    def write(self, name: str, text: str, *, over: Stored) -> None:
        """See `VersionStore`."""
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder):
                if self.read(name) != over:
                    raise changed_meanwhile(str(path))
                with whole_file(path) as part:
                    part.write_text(text)
        except OSError as error:
            raise _unwritable("write", path, error) from error

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
            if not self._folder.exists():
                self._folder.mkdir()
            with self._scratch(_INCOMING) as staging:
                for path in sorted(folder.iterdir()):
                    shutil.copyfile(path, staging / path.name)
                    (staging / path.name).chmod(0o644)
                staging.chmod(0o755)  # mkdtemp's 0700 would hide the version from a server that runs as another user
                staging.rename(target)
        except OSError as error:
            if target.exists():  # the rename found a folder that is not empty
                raise FileExistsError(target) from error
            raise _unwritable("install", target, error) from error
        return str(target)

    def remove(self, version: int) -> None:
        """See `VersionStore`. One rename takes the number away, so that nobody sees half of the version."""
        target = self._folder / str(version)
        try:
            with self._scratch(_REMOVED) as grave:
                target.rename(grave / target.name)
        except OSError as error:
            raise _unwritable("remove", target, error) from error

    def clear(self) -> None:
        """See `VersionStore`."""
        try:
            (self._folder / CONFIG_FILE).unlink(missing_ok=True)
            if self._folder.exists():
                shutil.rmtree(self._folder)
        except OSError as error:
            raise _unwritable("remove", self._folder, error) from error

    @contextmanager
    def _scratch(self, prefix: str) -> Iterator[Path]:
        """Make and lock a scratch folder beside the versions; remove it when the block ends."""
        with ExitStack() as stack:
            with _locked(self._folder):  # another export must not remove it before it is locked
                scratch = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{prefix}{_HOST}-"))
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                stack.enter_context(_locked(scratch))
            yield scratch

    def _clear_up(self) -> None:
        """Remove the scratch folders of killed commands, as far as permissions allow."""
        with suppress(OSError), _locked(self._folder):
            for path in self._folder.iterdir():
                if path.name.startswith((_INCOMING, _REMOVED)) and _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes of this machine; the lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # on a file system without locks, the comparison before a write must do
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_abandoned(scratch: Path) -> bool:
    """Return whether the process that made a scratch folder has ended.

    On the machine that made the folder, a free lock proves it. Other machines may share the files without the locks,
    and some file systems have no locks; in these cases the age decides.
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


def _unwritable(action: str, place: Path, error: OSError) -> RepositoryError:
    return RepositoryError(
        f"cannot {action}: {error.strerror or error}",
        where=str(place),
        fix="free disk space, grant write permission, or name another repository with --repository",
    )
