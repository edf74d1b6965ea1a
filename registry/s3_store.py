"""A model repository in an S3-compatible store, through s3fs; see `registry.store`."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from reentry.errors import RepositoryError
from reentry.serving.repository import version_number
from registry.manifest import MANIFEST_FILE
from registry.models import VersionedModel
from registry.store import CLAIM_FILE, CONFIG_FILE, Stored, changed_meanwhile, require_finished

_CHUNK: Final = 8 << 20
"""Bytes per read when a file is hashed."""


class ObjectStore:
    """Versions as objects under s3://bucket/prefix/<model>/."""

    def __init__(self, location: str, model: VersionedModel) -> None:
        """Prepare access to the store that the environment configures.

        Raises:
            RepositoryError: s3fs is not installed, or the location names no bucket.
        """
        try:
            from s3fs import S3FileSystem
        except ImportError as error:
            raise RepositoryError(
                "the package s3fs is missing", where=location, fix="uv pip install --editable '.[s3]'"
            ) from error
        if not location.removeprefix("s3://").partition("/")[0]:
            raise RepositoryError("the location has no bucket name", where=location, expected="s3://BUCKET/PREFIX")
        self.location = location.rstrip("/")
        self.model = model
        self._root = f"{self.location.removeprefix('s3://')}/{model.name}"
        # No cache: another command may change the store between two reads.
        self._files: Any = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def beside(self, model: VersionedModel) -> ObjectStore:
        """See `VersionStore`."""
        return ObjectStore(self.location, model)

    def place(self, name: str | int) -> str:
        """See `VersionStore`."""
        return f"{self.location}/{self.model.name}/{name}"

    def versions(self) -> list[int]:
        """See `VersionStore`."""
        names = (path.rsplit("/", 1)[-1] for path in self._list(self._root))
        numbers = (version_number(name, where=self.place(name)) for name in names)
        return sorted(number for number in numbers if number is not None)

    def files(self, version: int) -> dict[str, int]:
        """See `VersionStore`."""
        return {path.rsplit("/", 1)[-1]: size for path, size in sorted(self._list(self._path(version)).items())}

    def read(self, name: str) -> Stored:
        """See `VersionStore`."""
        with self._store_errors(name):
            try:
                tag = str(self._files.info(self._path(name))["ETag"])
                # Concurrency 1 saves s3fs a request for the size; these files are small.
                content: bytes = self._files.cat_file(self._path(name), max_concurrency=1)
            except FileNotFoundError:
                self._require_bucket()
                return Stored(None, None)
        try:
            return Stored(content.decode(), tag)
        except UnicodeDecodeError as error:
            raise RepositoryError(
                "the file is not text", where=self.place(name), fix="restore it, or remove it"
            ) from error

    def write(self, name: str, text: str, *, over: Stored) -> None:
        """See `VersionStore`."""
        condition = {"mode": "create"} if over.tag is None else {"IfMatch": over.tag}
        with self._store_errors(name):
            if not self._put(name, text, **condition):
                raise changed_meanwhile(self.place(name))

    def sha256(self, version: int, name: str) -> str:
        """See `VersionStore`."""
        digest = hashlib.sha256()
        with self._store_errors(f"{version}/{name}"), self._files.open(self._path(f"{version}/{name}"), "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, version: int, folder: Path) -> None:
        """See `VersionStore`."""
        folder.mkdir(parents=True)
        with self._store_errors(str(version)):
            for name in self.files(version):
                self._files.get_file(self._path(f"{version}/{name}"), str(folder / name))

    def install(self, folder: Path, version: int) -> str:
        """See `VersionStore`."""
        require_finished(folder, version)
        if self.files(version):
            raise FileExistsError(self.place(version))
        claim = f"{version}/{CLAIM_FILE}"
        with self._store_errors(str(version)):
            if not self._put(claim, uuid.uuid4().hex, mode="create"):
                raise FileExistsError(self.place(claim))
            if set(self.files(version)) != {CLAIM_FILE}:  # another export has finished since the look above
                self._files.rm_file(self._path(claim))
                raise FileExistsError(self.place(version))
            names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_FILE)
            for name in (*names, MANIFEST_FILE):
                self._files.put_file(str(folder / name), self._path(f"{version}/{name}"))
            self._files.rm_file(self._path(claim))
        return self.place(version)

    def remove(self, version: int) -> None:
        """See `VersionStore`. The manifest is removed first, so that the remaining files are no complete version."""
        names = self.files(version)
        with self._store_errors(str(version)):
            for name in sorted(names, key=lambda name: name != MANIFEST_FILE):
                self._files.rm_file(self._path(f"{version}/{name}"))

    def clear(self) -> None:
        """See `VersionStore`."""
        with self._store_errors(""):
            paths = self._files.find(self._root)
            for path in sorted(paths, key=lambda path: path != self._path(CONFIG_FILE)):
                self._files.rm_file(path)

    def _put(self, name: str, text: str, **condition: str) -> bool:
        """Write a file if the condition holds; return whether it did."""
        try:
            self._files.pipe_file(self._path(name), text.encode(), **condition)
        except OSError as error:
            if not _is_refused_condition(error):
                raise
            # Equal text: our own write succeeded, but its answer was lost, and the client library wrote again.
            return self.read(name).text == text
        return True

    def _path(self, name: str | int) -> str:
        return f"{self._root}/{name}"

    def _list(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every entry directly under a folder, by its path."""
        with self._store_errors(""):
            try:
                return {entry["name"]: entry["size"] or 0 for entry in self._files.ls(folder, detail=True)}
            except FileNotFoundError:
                self._require_bucket()
                return {}

    def _require_bucket(self) -> None:
        bucket = self._root.partition("/")[0]
        if not self._files.exists(bucket):
            raise RepositoryError(
                "there is no such bucket", where=f"s3://{bucket}", fix="create it, or name another with --repository"
            )

    @contextmanager
    def _store_errors(self, name: str) -> Iterator[None]:
        """Convert errors of the store and of the connection into a RepositoryError."""
        from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

        where = self.place(name).rstrip("/")
        try:
            yield
        except FileExistsError:
            raise
        except (NoCredentialsError, PartialCredentialsError, PermissionError) as error:
            raise RepositoryError(
                f"access denied with these credentials: {error}",
                where=where,
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        except (BotoCoreError, OSError) as error:
            raise RepositoryError(
                f"the store is unavailable: {error}",
                where=where,
                fix="check that it runs and that AWS_ENDPOINT_URL is its address",
            ) from error


def _is_refused_condition(error: OSError) -> bool:
    """Return whether the condition of a write did not hold (status 412), or another write was under way (409)."""
    cause = error.__cause__
    answer = getattr(cause, "response", {})
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return isinstance(error, FileExistsError) or status in (409, 412)
