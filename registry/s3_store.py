"""A model repository in an S3-compatible store, through s3fs; see `registry.store`."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from reentry.errors import RepositoryError
from reentry.schema import REENTRY_LSTM
from reentry.serving.repository import version_number
from registry.manifest import MANIFEST_FILE
from registry.store import CLAIM_FILE, Stored, changed_meanwhile, require_finished

_CHUNK: Final = 8 << 20
"""Bytes read at once."""


class ObjectStore:
    """Versions as objects under s3://bucket/prefix/reentry_lstm/."""

    def __init__(self, location: str) -> None:
        """Reach the store named by the environment.

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
            raise RepositoryError("names no bucket", where=location, expected="s3://BUCKET/PREFIX")
        self.location = location.rstrip("/")
        self._root = f"{self.location.removeprefix('s3://')}/{REENTRY_LSTM.name}"
        # Nothing remembered: another command may change the store between two looks.
        self._files: Any = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def place(self, name: str | int) -> str:
        """See `VersionStore`."""
        return f"{self.location}/{REENTRY_LSTM.name}/{name}"

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
        with self._asking(name):
            try:
                tag = str(self._files.info(self._path(name))["ETag"])
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                self._require_bucket()
                return Stored(None, None)
        try:
            return Stored(content.decode(), tag)
        except UnicodeDecodeError as error:
            raise RepositoryError("is no text", where=self.place(name), fix="restore it, or remove it") from error

    def write(self, name: str, text: str, *, over: Stored) -> None:
        """See `VersionStore`."""
        with self._asking(name):
            try:
                if over.tag is None:
                    self._files.pipe_file(self._path(name), text.encode(), mode="create")
                else:
                    self._files.pipe_file(self._path(name), text.encode(), IfMatch=over.tag)
            except OSError as error:
                if not _is_refused_condition(error):
                    raise
                if self.read(name).text != text:  # equal: our own write, whose answer was lost and asked for again
                    raise changed_meanwhile(self.place(name)) from error

    def sha256(self, version: int, name: str) -> str:
        """See `VersionStore`."""
        digest = hashlib.sha256()
        with self._asking(f"{version}/{name}"), self._files.open(self._path(f"{version}/{name}"), "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, version: int, folder: Path) -> None:
        """See `VersionStore`."""
        folder.mkdir(parents=True)
        with self._asking(str(version)):
            for name in self.files(version):
                self._files.get_file(self._path(f"{version}/{name}"), str(folder / name))

    def install(self, folder: Path, version: int) -> str:
        """See `VersionStore`."""
        require_finished(folder, version)
        if self.files(version):
            raise FileExistsError(self.place(version))
        claim = f"{version}/{CLAIM_FILE}"
        with self._asking(str(version)):
            self._claim(claim)
            names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_FILE)
            for name in (*names, MANIFEST_FILE):
                self._files.put_file(str(folder / name), self._path(f"{version}/{name}"))
            self._files.rm_file(self._path(claim))
        return self.place(version)

    def remove(self, version: int) -> None:
        """See `VersionStore`. The manifest goes first: what is left then is not whole."""
        names = self.files(version)
        with self._asking(str(version)):
            for name in sorted(names, key=lambda name: name != MANIFEST_FILE):
                self._files.rm_file(self._path(f"{version}/{name}"))

    def _claim(self, name: str) -> None:
        ours = uuid.uuid4().hex
        try:
            self._files.pipe_file(self._path(name), ours.encode(), mode="create")
        except OSError as error:
            if not _is_refused_condition(error):
                raise
            if self.read(name).text != ours:  # equal: the answer to our own claim was lost, and it was made again
                raise FileExistsError(self.place(name)) from error

    def _path(self, name: str | int) -> str:
        return f"{self._root}/{name}"

    def _list(self, folder: str) -> dict[str, int]:
        """Bytes of everything right under a folder, by its path."""
        with self._asking(""):
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
    def _asking(self, name: str) -> Iterator[None]:
        """Turn what the store or the way to it refuses into one line."""
        from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

        where = self.place(name).rstrip("/")
        try:
            yield
        except FileExistsError:
            raise
        except (NoCredentialsError, PartialCredentialsError, PermissionError) as error:
            raise RepositoryError(
                f"the store lets nobody in with these credentials: {error}",
                where=where,
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        except (BotoCoreError, OSError) as error:
            raise RepositoryError(
                f"the store cannot be used: {error}",
                where=where,
                fix="see that it runs and that AWS_ENDPOINT_URL names it",
            ) from error


def _is_refused_condition(error: OSError) -> bool:
    """Whether a conditional write found another state than its condition says (status 412, or 409 while one runs)."""
    cause = error.__cause__
    answer = getattr(cause, "response", {})
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return isinstance(error, FileExistsError) or status in (409, 412)
