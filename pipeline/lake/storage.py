"""Stored files below a location, the earlier versions of objects in a versioned bucket included.

Delta Lake knows only the files that its log names. Erasure must also find files of killed writers, files that a
maintenance has removed from the log, and what a versioned bucket keeps of deleted and overwritten objects.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from reentry.errors import LakeError

_STAGED: Final = re.compile(r"\.parquet#\d+$")
"""End of the name under which Delta Lake writes a data file in a file system before it renames it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file, or one version of an object."""

    path: str
    """Path below the location."""
    version: str | None
    """Version id of an object, "null" if it was written without versioning; None in a file system."""
    is_current: bool
    """Whether a reader without a version id gets this content."""
    modified: dt.datetime
    size: int
    """Size of the content, bytes."""

    def __str__(self) -> str:
        return self.path if self.is_current else f"{self.path} (earlier version)"


class Storage:
    """Access to the files below a folder or s3://BUCKET/PREFIX."""

    def __init__(self, location: str) -> None:
        """Name the location, without access to it.

        Args:
            location: A folder, or s3://BUCKET/PREFIX; the environment configures the store.
        """
        self.location = location.rstrip("/")
        self._bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client: Any = None
        if location.startswith("s3://"):
            from botocore.session import Session

            with self._errors():
                self._client = Session().create_client("s3", region_name=os.environ.get("AWS_REGION"))

    def exists(self) -> bool:
        """Return whether the folder exists, or any object or earlier version of one below the prefix.

        Raises:
            LakeError: The store is unavailable, or does not allow to list versions.
        """
        with self._errors():
            return Path(self.location).is_dir() if self._client is None else any(True for _ in self._objects(""))

    def files(self, folder: str = "") -> list[StoredFile]:
        """Return all files below a folder and all their versions, by path.

        Raises:
            LakeError: The store is unavailable, or does not allow to list versions.
        """
        with self._errors():
            found = self._local(folder) if self._client is None else self._objects(folder)
            return sorted(found, key=lambda file: (file.path, file.modified))

    def open(self, file: StoredFile) -> BinaryIO:
        """Open a file for reading.

        Raises:
            LakeError: It cannot be read.
            FileNotFoundError: It has been removed.
        """
        with self._errors():
            if self._client is None:
                return (Path(self.location) / file.path).open("rb")
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + file.path, VersionId=file.version)
            return io.BytesIO(answer["Body"].read())

    def delete(self, file: StoredFile) -> None:
        """Delete a file, or one version of an object for good. A missing file is no error.

        Raises:
            LakeError: The store refuses the deletion.
        """
        with self._errors():
            if self._client is None:
                (Path(self.location) / file.path).unlink(missing_ok=True)
            else:
                # Without a version id, a versioned bucket would only hide the object.
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + file.path, VersionId=file.version)

    def _local(self, folder: str) -> Iterator[StoredFile]:
        root = Path(self.location)
        for path in (root / folder).rglob("*"):
            with suppress(FileNotFoundError):  # removed since it was listed
                if path.is_file():
                    status = path.stat()
                    yield StoredFile(
                        path=path.relative_to(root).as_posix(),
                        version=None,
                        is_current=True,
                        modified=dt.datetime.fromtimestamp(status.st_mtime, tz=dt.UTC),
                        size=status.st_size,
                    )

    def _objects(self, folder: str) -> Iterator[StoredFile]:
        prefix = self._prefix + (f"{folder}/" if folder else "")
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=prefix):
            for each in page.get("Versions", []):
                yield StoredFile(
                    path=each["Key"].removeprefix(self._prefix),
                    version=each["VersionId"],
                    is_current=each["IsLatest"],
                    modified=each["LastModified"],
                    size=each["Size"],
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except FileNotFoundError:
            raise
        except (BotoCoreError, ClientError, OSError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            if code in ("NoSuchKey", "NoSuchVersion"):
                raise FileNotFoundError(code) from error
            raise LakeError(
                "the stored files cannot be listed, read or deleted",
                where=self.location,
                got=code or str(error) or type(error).__name__,
                fix="check that the store runs, and the permissions s3:ListBucketVersions, s3:GetObjectVersion and "
                "s3:DeleteObjectVersion",
            ) from error


def staged_files(storage: Storage, table: str) -> list[StoredFile]:
    """Return the data files of a table that a writer has not finished, or was killed while writing.

    Delta Lake itself never lists them. An object of S3 appears complete, so a bucket has none.
    """
    if storage.location.startswith("s3://"):
        return []
    return [file for file in storage.files(table) if _STAGED.search(file.path)]
