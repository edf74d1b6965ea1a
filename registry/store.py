"""Where the versions of the network are kept: a model repository in a folder or in an S3-compatible store.

    <repository>/reentry_lstm/config.pbtxt     what Triton serves, by its pinned version
    <repository>/reentry_lstm/labels.json      what is in production, and how it came there; see `registry.labels`
    <repository>/reentry_lstm/<N>/             a version: graphs, reference.json, manifest.json

A version appears whole or not at all. In a folder it is made under a name that Triton does not take for a version and
gets its number by one rename. A store of objects has no rename: there a number is claimed by a conditional write, and
the manifest, written last, makes the version whole. Files that are changed are replaced in one step, and only while
they still are what was read: a change that another command made in between is refused, never lost.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from reentry.errors import RepositoryError
from registry.manifest import MANIFEST_FILE, FileEntry, Manifest

CONFIG_FILE: Final = "config.pbtxt"
LABELS_FILE: Final = "labels.json"
CLAIM_FILE: Final = ".claim"
"""In a store of objects: beside the files of a version whose upload has not ended."""


class Stored(NamedTuple):
    """A text as it was read, so that it is replaced only while it still is."""

    text: str | None
    """None: there is no such file."""
    tag: str | None
    """Another one for every other text."""


class VersionStore(Protocol):
    """The versions of `reentry_lstm` in one model repository.

    Every method raises RepositoryError where the store cannot be read or takes no files.
    """

    location: str
    """Of the model repository, as the user names it."""

    def place(self, name: str | int) -> str:
        """Path or URL of a version, or of a file beside the versions."""

    def versions(self) -> list[int]:
        """Numbers in use, in order; also of versions that are not whole."""

    def files(self, version: int) -> dict[str, int]:
        """Bytes of each file of a version, by its name; empty where there is none."""

    def read(self, name: str) -> Stored:
        """A text of the repository or of a version: `labels.json`, `3/manifest.json`."""

    def write(self, name: str, text: str, *, over: Stored) -> None:
        """Replace what was read as `over`, in one step.

        Raises:
            RepositoryError: another command changed it meanwhile.
        """

    def sha256(self, version: int, name: str) -> str:
        """Of a file of a version."""

    def fetch(self, version: int, folder: Path) -> None:
        """Copy the files of a version into a new folder."""

    def install(self, folder: Path, version: int) -> str:
        """Install a finished folder as `version`: all of its files, or nothing.

        Returns:
            Where it is now.

        Raises:
            FileExistsError: another export took this number; take the next.
            RepositoryError: no manifest in it, or one of other files.
        """

    def remove(self, version: int) -> None:
        """Take a version away; what lists the store sees it whole or not whole, never whole with files missing."""


def next_version(store: VersionStore) -> int:
    """The lowest number above all in use."""
    return max(store.versions(), default=0) + 1


def manifest_of(store: VersionStore, version: int) -> Manifest:
    """What a version says of itself.

    Raises:
        RepositoryError: there is no such version, it has no manifest, or one of an older layout.
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
            fix="`reentry repository list` shows what is there",
        )
    if not files:
        raise RepositoryError("its folder is empty", where=where, fix="remove it, or export the checkpoint again")
    if CLAIM_FILE in files:
        raise RepositoryError("the upload has not ended", where=where, fix="wait for it, or export again")
    raise RepositoryError("has no manifest", where=where, fix="export the checkpoint again")


def faults_of(store: VersionStore, version: int, manifest: Manifest) -> list[str]:
    """How the files of a version differ from its manifest, one line each; empty where they are those that it names."""
    if manifest.version != version:
        return [f"the manifest is of version {manifest.version}"]
    found = store.files(version)
    faults = []
    for name, entry in sorted(manifest.files.items()):
        if name not in found:
            faults.append(f"{name} is missing")
        elif found[name] != entry.bytes:
            faults.append(f"{name} has {found[name]:,} bytes for {entry.bytes:,}")
        elif store.sha256(version, name) != entry.sha256:
            faults.append(f"{name} has another content than its SHA-256 says")
    return faults


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """What a manifest says of the files of a folder; of all but the manifest itself."""
    return {
        path.name: FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_finished(folder: Path, version: int) -> None:
    """See that a folder is what its manifest says, before it is installed.

    Raises:
        RepositoryError: it is not.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise RepositoryError("a version without a manifest is not installed", where=str(folder))
    manifest = Manifest.from_json(path.read_text(), where=str(path))
    if manifest.version != version or manifest.files != file_entries(folder):
        raise RepositoryError("the manifest is of another version or of other files", where=str(folder))


def changed_meanwhile(place: str) -> RepositoryError:
    """For a text that is no longer what was read."""
    return RepositoryError(
        "another command changed it meanwhile", where=place, fix="look at `reentry repository list`, then do it again"
    )
