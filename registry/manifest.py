"""manifest.json of a version: origin, metrics, gate results, and the SHA-256 of each file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from reentry.errors import RepositoryError
from registry.formats import Format

MANIFEST_FILE: Final = "manifest.json"
"""File in the folder of a version; written last, so that a version without it is incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a version."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Description of one version of a model."""

    version: int
    format: Format
    precision: str
    created: str
    """Time of the export, ISO 8601, UTC."""
    checkpoint_sha256: str
    schema_version: int
    data_fingerprint: str
    git_revision: str
    seed: int
    model: dict[str, Any]
    """Architecture of the network, for the LSTM its `ModelConfig`, and the number of its `parameters`."""
    metrics: dict[str, float | None]
    """Metrics of this format on the validation data, computed by the gate; None if undefined."""
    verification: dict[str, Any]
    """Checks and measurements of the gate; `passed` tells whether the version passed."""
    files: dict[str, FileEntry] = field(default_factory=dict)
    """Files of the version by name, except the manifest itself."""
    data_table: dict[str, str | int] | None = None
    """Name, version and id of the table of the data pipeline that the network was trained on; None if it was trained on
    a file, and in old manifests."""

    @property
    def passed(self) -> bool:
        """Whether the version passed the gate."""
        return self.verification.get("passed") is True

    def to_json(self) -> str:
        """Return the content of manifest.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Parse the content of manifest.json.

        Raises:
            RepositoryError: the content is invalid.
        """
        try:
            content = {"data_table": None} | json.loads(text)
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
    """Check the types of the fields that commands compute with.

    Raises:
        TypeError: a field has another type.
    """
    for name in ("version", "schema_version"):
        if type(getattr(manifest, name)) is not int:
            raise TypeError(f"{name} is not an integer")
    for name in ("model", "metrics", "verification"):
        if not isinstance(getattr(manifest, name), dict):
            raise TypeError(f"{name} is not an object")
    table = manifest.data_table
    if table is not None and [type(table[name]) for name in ("name", "version", "id")] != [str, int, str]:
        raise TypeError("data_table lacks the name, the version or the id of the table")
    for name, value in manifest.metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"the metric {name} is not a number")
    for name, entry in manifest.files.items():
        if type(entry.bytes) is not int or not isinstance(entry.sha256, str):
            raise TypeError(f"the entry of the file {name} lacks bytes or SHA-256")
