"""manifest.json of a version: what a stranger wants to know of it before trusting it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from reentry.errors import RepositoryError
from registry.formats import Format

MANIFEST_FILE: Final = "manifest.json"
"""In the folder of a version; written last, so that a version without one is not whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the version."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of the network in the model repository."""

    version: int
    format: Format
    precision: str
    created: str
    """ISO 8601, UTC."""
    checkpoint_sha256: str
    schema_version: int
    data_fingerprint: str
    git_revision: str
    seed: int
    model: dict[str, Any]
    """Shape of the network (`ModelConfig`), and the number of its `parameters`."""
    metrics: dict[str, float | None]
    """Of this format on the validation tracks, computed by the gate."""
    verification: dict[str, Any]
    """What the gate checked and measured; `passed` is True in all that were installed by it."""
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the gate let it through."""
        return self.verification.get("passed") is True

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read a manifest.

        Raises:
            RepositoryError: not a manifest.
        """
        try:
            content = json.loads(text)
            known = {name: content[name] for name in (entry.name for entry in fields(cls))}
            known["format"] = Format(known["format"])
            known["files"] = {name: FileEntry(**entry) for name, entry in known["files"].items()}
            manifest = cls(**known)
            _check_types(manifest)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RepositoryError(
                f"not a manifest of this program: {error}", where=where, fix="export the checkpoint again"
            ) from error
        return manifest


def _check_types(manifest: Manifest) -> None:
    """See that what the commands reckon with is of its type, whoever wrote the file."""
    for name in ("version", "schema_version"):
        if type(getattr(manifest, name)) is not int:
            raise TypeError(f"{name} is no whole number")
    for name in ("model", "metrics", "verification"):
        if not isinstance(getattr(manifest, name), dict):
            raise TypeError(f"{name} is no object")
    for name, value in manifest.metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"the metric {name} is no number")
    for name, entry in manifest.files.items():
        if type(entry.bytes) is not int or not isinstance(entry.sha256, str):
            raise TypeError(f"the entry of the file {name} has no bytes and SHA-256")
