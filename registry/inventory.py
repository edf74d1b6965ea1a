"""What a model repository holds: each version with what its manifest says, and how two of them differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reentry.errors import RepositoryError
from registry.formats import FORMATS, Format, FormatSpec
from registry.labels import METRIC, Labels, labels_of, metric_of
from registry.manifest import Manifest
from registry.store import CLAIM_FILE, VersionStore, manifest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version as it was found."""

    number: int
    manifest: Manifest | None
    """None where `problem` says why."""
    files: dict[str, int]
    """Bytes of each, by name."""
    problem: str | None = None
    """Why there is no manifest: of an older layout, none at all, or not yet."""

    @property
    def unfinished(self) -> bool:
        """Whether its upload has not ended, or never will."""
        return self.manifest is None and CLAIM_FILE in self.files

    @property
    def spec(self) -> FormatSpec | None:
        """Its format; where no manifest says so, by its files. None: of no known one."""
        if self.manifest is not None:
            return FORMATS[self.manifest.format]
        onnx = FORMATS[Format.ONNX]  # what all versions were before there were formats
        return onnx if onnx.whole_file in self.files and not self.unfinished else None

    @property
    def metric(self) -> float | None:
        """`labels.METRIC`; None where it has none."""
        return metric_of(self.manifest.metrics) if self.manifest is not None else None

    @property
    def gate(self) -> str:
        """passed, failed, or unknown."""
        if self.manifest is None:
            return "unknown"
        return "passed" if self.manifest.passed else "failed"


def find(store: VersionStore, number: int) -> Version:
    """Look at one version.

    Raises:
        RepositoryError: there is none of that number.
    """
    files = store.files(number)
    try:
        return Version(number=number, manifest=manifest_of(store, number), files=files)
    except RepositoryError as error:
        if not files and number not in store.versions():
            raise
        return Version(number=number, manifest=None, files=files, problem=error.problem)


def find_all(store: VersionStore) -> list[Version]:
    """Look at every version, in order."""
    return [find(store, number) for number in store.versions()]


def find_production(store: VersionStore, labels: Labels) -> Version | None:
    """The version in production; None where there is none, or it is gone."""
    if labels.production is None or not store.files(labels.production):
        return None
    return find(store, labels.production)


def numbered(store: VersionStore, labels: Labels, name: str) -> int:
    """The number of a version named by its number or its label.

    Raises:
        RepositoryError: neither, or no version bears the label.
    """
    if name.isdecimal() and len(name) < 10:
        return int(name)
    if name not in ("production", "candidate"):
        raise RepositoryError("names no version", where=name, expected="a number, `candidate` or `production`")
    number: int | None = getattr(labels, name)
    if number is None:
        raise RepositoryError(
            f"no version is labelled {name}",
            where=store.location,
            fix="give a number; `reentry repository list` shows them",
        )
    return number


def row_of(version: Version, labels: Labels) -> dict[str, Any]:
    """What a list says of a version."""
    manifest = version.manifest
    return {
        "version": version.number,
        "labels": labels_of(labels, version.number),
        "format": str(manifest.format) if manifest else None,
        "created": manifest.created if manifest else None,
        METRIC: version.metric,
        "bytes": sum(version.files.values()),
        "gate": version.gate,
        "problem": version.problem,
    }


def differences(one: Manifest, other: Manifest) -> dict[str, tuple[Any, Any]]:
    """Fields of two manifests that differ, by their path, with both values; None where one lacks it."""
    left, right = _flat(asdict(one)), _flat(asdict(other))
    paths = [*left, *(path for path in right if path not in left)]
    return {path: (left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
