"""Files of jobs in an S3-compatible store, through s3fs; see `gateway.jobs.files.store`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final

from gateway.jobs.files.store import RESULT_FILES, StoreError, Upload

_BLOCK: Final = 8 * 2**20
"""Bytes of one part of an upload, and of one read."""


@cache
def object_store() -> Any:
    """Return the connection to the store that the environment configures."""
    from s3fs import S3FileSystem

    # No cache: another process may change the store between two reads.
    return S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def object_size(url: str) -> int | None:
    """Return the size of an object in bytes; None if it does not exist.

    Raises:
        StoreError: the store is unavailable, or refuses the access.
    """
    with store_errors(), suppress(FileNotFoundError):
        return int(object_store().info(url)["size"])
    return None


def fetch(url: str, path: Path) -> None:
    """Copy an object into a file.

    Raises:
        StoreError: the store is unavailable.
        FileNotFoundError: the object does not exist.
    """
    with store_errors():
        object_store().get_file(url, str(path))


class S3Files:
    """Store of files under s3://BUCKET/PREFIX. A job that is resumed begins from the start, without a journal."""

    def __init__(self, place: str) -> None:
        self._root = place.removeprefix("s3://").rstrip("/")

    def upload(self, job_id: str, name: str) -> Upload:
        """See `JobFiles`."""
        with store_errors():
            return _S3Upload(f"{self._root}/{job_id}/{name}")

    def source(self, job_id: str, name: str, scratch: Path) -> Path:
        """See `JobFiles`."""
        fetch(f"{self._root}/{job_id}/{name}", scratch / name)
        return scratch / name

    def workplace(self, job_id: str, fence: int, scratch: Path) -> Path:
        """See `JobFiles`."""
        del job_id
        folder = scratch / str(fence)
        folder.mkdir()
        return folder

    def keep(self, job_id: str, fence: int, folder: Path) -> None:
        """See `JobFiles`."""
        with store_errors():
            for name in RESULT_FILES:
                if (folder / name).exists():
                    object_store().put_file(str(folder / name), self._path(job_id, fence, name))

    def size(self, job_id: str, fence: int, name: str) -> int | None:
        """See `JobFiles`."""
        return object_size(self._path(job_id, fence, name))

    def open(self, job_id: str, fence: int, name: str) -> BinaryIO:
        """See `JobFiles`."""
        with store_errors():
            file: BinaryIO = object_store().open(
                self._path(job_id, fence, name), "rb", block_size=_BLOCK, cache_type="readahead"
            )
            return file

    def tidy(self, job_id: str, fence: int) -> None:
        """See `JobFiles`."""
        with store_errors():
            for path in self._list(f"{self._root}/{job_id}"):
                name = path.rsplit("/", 1)[-1]
                if name.isdecimal() and int(name) < fence:
                    object_store().rm(path, recursive=True)

    def discard(self, job_id: str, fence: int) -> None:
        """See `JobFiles`."""
        self._remove(f"{self._root}/{job_id}/{fence}")

    def remove(self, job_id: str) -> None:
        """See `JobFiles`."""
        self._remove(f"{self._root}/{job_id}")

    def job_ids(self) -> list[str]:
        """See `JobFiles`."""
        with store_errors():
            names = [path.rsplit("/", 1)[-1] for path in self._list(self._root)]
        return sorted(name for name in names if name.startswith("job_"))

    def _remove(self, path: str) -> None:
        with store_errors(), suppress(FileNotFoundError):
            object_store().rm(path, recursive=True)

    def _list(self, path: str) -> list[str]:
        with suppress(FileNotFoundError):
            return list(object_store().ls(path, detail=False))
        return []

    def _path(self, job_id: str, fence: int, name: str) -> str:
        return f"{self._root}/{job_id}/{fence}/{name}"


class _S3Upload:
    """An upload in parts, which become an object at the commit."""

    def __init__(self, path: str) -> None:
        self._file = object_store().open(path, "wb", block_size=_BLOCK, autocommit=False)
        self._committed = False

    def write(self, part: bytes) -> None:
        """See `Upload`."""
        with store_errors():
            self._file.write(part)

    def commit(self) -> None:
        """See `Upload`."""
        with store_errors():
            self._file.close()
            self._file.commit()
        self._committed = True

    def discard(self) -> None:
        """See `Upload`."""
        if not self._committed:
            with suppress(StoreError), store_errors():
                self._file.discard()
            self._file.closed = True  # closing would write the rest


@contextmanager
def store_errors() -> Iterator[None]:
    """Convert the errors of the store, except a missing object, into a StoreError."""
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise StoreError("the object store refuses the access of the gateway") from error
    except (BotoCoreError, OSError) as error:
        raise StoreError(
            "the object store is unavailable", fix="check that it runs and that AWS_ENDPOINT_URL is its address"
        ) from error
