"""The landing folder, in which files arrive below one folder for each hour, in a file system or on S3.

The tables keep fingerprints of the files. A plain digest would tell the ids in a file to anyone who knows its other
columns, for example from the table raw, and tries all ids. Fingerprints therefore need a key.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.lake.object_store import object_store
from pipeline.privacy.keys import PseudonymKeys
from reentry.errors import LakeError

_log = logging.getLogger(__name__)

_BLOCK: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """One object of the landing folder."""

    hour: str
    name: str
    """Path below the landing folder, the hour included."""
    etag: str
    """Fingerprint of the content's tag: the store's own, or size and time of change of a local file."""

    @property
    def key(self) -> str:
        """Name of this content at this place, which is ingested once."""
        return "object:" + hashlib.sha256(f"{self.name}\n{self.etag}".encode()).hexdigest()

    def columns(self, content: str, rows: int) -> dict[str, pa.Array]:
        """Return the columns of `raw` and `quarantine` that name the file and the fingerprint of its content."""
        values = {"hour": self.hour, "object": self.name, "etag": self.etag, "content": content}
        return {name: pa.repeat(pa.scalar(value, pa.string()), rows) for name, value in values.items()}


class ChangedError(Exception):
    """The object was replaced or removed after it had been listed."""


class Landing:
    """Access to a landing folder."""

    def __init__(self, location: str, keys: PseudonymKeys) -> None:
        """Name the folder, without access to it.

        Args:
            location: Folder, or s3://BUCKET/PREFIX.
            keys: Keys of the fingerprints.

        Raises:
            LakeError: The location has another scheme.
        """
        scheme, separator, rest = location.partition("://")
        self.location = location.rstrip("/")
        self._keys = keys
        if not separator:
            from fsspec.implementations.local import LocalFileSystem

            self._files: Any = LocalFileSystem()
            self._root = str(Path(location).absolute())
        elif scheme == "s3" and rest.partition("/")[0]:
            self._files = object_store()
            self._root = rest.rstrip("/")
        else:
            raise LakeError("unknown kind of landing folder", where=location, expected="a folder or s3://BUCKET/PREFIX")

    def require(self) -> None:
        """Check that the landing folder exists, because a wrong name would look like an hour without files.

        Raises:
            LakeError: It does not exist, or the store is unavailable.
        """
        with self._errors():
            try:
                if self.location.startswith("s3://"):
                    # The method `exists` of the store answers no also if the store does not answer.
                    self._files.call_s3("list_objects_v2", Bucket=self._root.partition("/")[0], MaxKeys=1)
                else:
                    self._files.info(self._root)
            except FileNotFoundError as error:
                raise LakeError(
                    "the landing folder does not exist", where=self.location, fix="create it, or correct --landing"
                ) from error

    def objects(self, hour: str) -> list[Landed]:
        """Return the objects of an hour by name. Names that start with a dot or an underscore are left out.

        So are links, pipes and other special files of a local folder: whoever may only write there must not choose
        which file this program reads, or let it wait for ever.

        Raises:
            LakeError: The store is unavailable.
        """
        folder = f"{self._root}/{hour}"
        with self._errors():
            try:
                found = self._files.find(folder, detail=True)
            except FileNotFoundError:
                return []
        names = {path: path.removeprefix(f"{self._root}/") for path in found if _is_usable(path, found[path], hour)}
        return [
            Landed(hour=hour, name=name, etag=self._tag(found[path]))
            for path, name in sorted(names.items())
            if not any(part.startswith((".", "_")) for part in name.split("/")[1:])
        ]

    def fetch(self, landed: Landed, path: Path) -> str:
        """Copy an object into a file and return the fingerprint of its content.

        Raises:
            ChangedError: The object is no longer the one that was listed.
            LakeError: The store is unavailable.
        """
        from s3fs.utils import FileExpired  # a file that was replaced while it was read

        source = f"{self._root}/{landed.name}"
        digest = hashlib.sha256()
        with self._errors():
            try:
                with self._files.open(source, "rb") as file, path.open("wb") as copy:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        copy.write(block)
                changed = self._tag(self._files.info(source)) != landed.etag
            except (FileNotFoundError, FileExpired):
                changed = True
        if changed:
            raise ChangedError(landed.name)
        return self._keys.fingerprint(digest.hexdigest())

    def is_current(self, landed: Landed) -> bool:
        """Return whether an object still is the one that was listed.

        Raises:
            LakeError: The store is unavailable.
        """
        with self._errors():
            try:
                return self._tag(self._files.info(f"{self._root}/{landed.name}")) == landed.etag
            except FileNotFoundError:
                return False

    def _tag(self, entry: dict[str, Any]) -> str:
        # Equal bytes have the same ETag, also where another content came between. A listing may have fractions of a
        # second that a request for one object lacks.
        tag = f"{entry['ETag']}-{int(entry['LastModified'].timestamp())}" if "ETag" in entry else None
        tag = tag or f"{entry['size']}-{entry['mtime']}"
        return self._keys.fingerprint(tag)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError

        try:
            yield
        except FileNotFoundError:
            raise
        except (BotoCoreError, OSError) as error:
            raise LakeError(
                "the landing folder cannot be read",
                where=self.location,
                got=str(error) or type(error).__name__,
                fix="check that the store runs, AWS_ENDPOINT_URL and the credentials",
            ) from error


def _is_usable(path: str, entry: dict[str, Any], hour: str) -> bool:
    """Return whether an entry is a regular file with a printable name; another one is reported.

    The tables need UTF-8, and a line break or an escape sequence would forge lines of the report.
    """
    if not path.isprintable():
        _log.warning("%s: a file is left out, because its name is not printable UTF-8; fix: rename it", hour)
        return False
    if entry["type"] != "file":
        _log.warning("%s: a link or special file is left out; fix: put a regular file there", hour)
        return False
    return True
