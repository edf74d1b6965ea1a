"""What a store of versions is: one model of a model repository, in a folder or in an S3-compatible store.

    <repository>/<model>/config.pbtxt     what Triton serves: the version that it pins
    <repository>/<model>/labels.json      which version is in production, and how it got there; see `registry.labels`
    <repository>/<model>/<N>/             one version: graphs, reference.json, manifest.json

A version becomes visible complete or not at all. A folder store copies it under a name that Triton does not take for a
version, and then renames it to its number. An object store cannot rename: a conditional write claims the number, and
the manifest, written last, completes the version. A file is replaced in one step, and only while its content is still
what the caller read, so that no command overwrites the change of another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, Protocol

from reentry.errors import RepositoryError
from reentry.runtime.files import sha256_of
from registry.manifest import MANIFEST_FILE, FileEntry, Manifest
from registry.models import VersionedModel

CONFIG_FILE: Final = "config.pbtxt"
LABELS_FILE: Final = "labels.json"
CLAIM_FILE: Final = ".claim"
"""File that an object store keeps beside the files of a version until its upload has finished."""


class Stored(NamedTuple):
    """Content of a text file in the store, with a tag that identifies it."""

    text: str | None
    """Content of the file; None if there is no such file."""
    tag: str | None
    """Identifier of this content; different content has a different tag."""


class VersionStore(Protocol):
    """The versions of one model in one model repository.

    Every method raises RepositoryError if the store cannot be read or written.
    """

    location: str
    """Location of the model repository, as the user wrote it."""
    model: VersionedModel
    """Model whose versions these are."""

    def beside(self, model: VersionedModel) -> VersionStore:
        """Return the versions of another model in the same repository."""

    def place(self, name: str | int) -> str:
        """Return the path or URL of a version, or of a file beside the versions."""

    def versions(self) -> list[int]:
        """Return the numbers in use in ascending order, those of incomplete versions included."""

    def files(self, version: int) -> dict[str, int]:
        """Return the size in bytes of each file of a version, by file name; empty if there is no such version."""

    def read(self, name: str) -> Stored:
        """Read a text file of the model or of a version, such as `labels.json` or `3/manifest.json`."""

    def write(self, name: str, text: str, *, over: Stored) -> None:
        """Replace or create a file in one step, provided that it still is what was read as `over`.

        Raises:
            RepositoryError: another command changed the file in the meantime.
        """

    def sha256(self, version: int, name: str) -> str:
        """Return the SHA-256 of a file of a version."""

    def fetch(self, version: int, folder: Path) -> None:
        """Copy the files of a version into a new folder."""

    def install(self, folder: Path, version: int) -> str:
        """Install all files of a finished folder as a version, or none of them.

        Returns:
            The path or URL of the version.

        Raises:
            FileExistsError: another export took this number; use the next one.
            RepositoryError: the folder has no manifest, or one that does not match it.
        """

    def remove(self, version: int) -> None:
        """Remove a version; at no time is it complete according to its manifest and lacks files."""

    def clear(self) -> None:
        """Remove the model with all of its files, config.pbtxt first, so that no server loads an incomplete model."""


def next_version(store: VersionStore) -> int:
    """Return the lowest number above all numbers in use."""
    return max(store.versions(), default=0) + 1


def manifest_of(store: VersionStore, version: int) -> Manifest:
    """Read the manifest of a version.

    Raises:
        RepositoryError: there is no such version, or it has no manifest that this program can read.
    """
    where = store.place(version)
    text = store.read(f"{version}/{MANIFEST_FILE}").text
    if text is not None:
        return Manifest.from_json(text, where=f"{where}/{MANIFEST_FILE}")
    files = store.files(version)
    numbers = [] if files else store.versions()
    if not files and version not in numbers:
        raise RepositoryError(
            "there is no such version",
            where=where,
            expected=" or ".join(map(str, numbers)) or "a version",
            fix="`reentry repository list` shows the versions",
        )
    if not files:
        raise RepositoryError("its folder is empty", where=where, fix="remove it, or export the checkpoint again")
    if CLAIM_FILE in files:
        raise RepositoryError("its upload has not finished", where=where, fix="wait for it, or export again")
    raise RepositoryError("the version has no manifest", where=where, fix="export the checkpoint again")


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Return the manifest's entries for the files of a folder; the manifest itself has none."""
    return {
        path.name: FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }


def require_finished(folder: Path, version: int) -> None:
    """Check a folder against its manifest before it is installed.

    Raises:
        RepositoryError: there is no manifest, or it does not match the folder.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise RepositoryError("the folder has no manifest, so it cannot be installed", where=str(folder))
    manifest = Manifest.from_json(path.read_text(), where=str(path))
    if manifest.version != version or manifest.files != file_entries(folder):
        raise RepositoryError("the manifest does not match the version number or the files", where=str(folder))


def changed_meanwhile(place: str) -> RepositoryError:
    """Return the error for a file that another command changed after it was read."""
    return RepositoryError(
        "another command changed the file in the meantime",
        where=place,
        fix="check `reentry repository list`, then try again",
    )
