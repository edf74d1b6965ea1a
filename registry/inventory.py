"""Inventory of a model: its versions with their manifests, the one in production, and how two versions differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from reentry.errors import RepositoryError
from registry import config_pbtxt
from registry.formats import FORMATS, Format, FormatSpec
from registry.labels import Labels, Record, labels_of
from registry.manifest import Manifest
from registry.store import CLAIM_FILE, CONFIG_FILE, Stored, VersionStore, manifest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version as it was found in a store."""

    number: int
    manifest: Manifest | None
    """Manifest of the version; None if `problem` says why it could not be read."""
    files: dict[str, int]
    """Size in bytes of each file, by file name."""
    problem: str | None = None
    """Reason why there is no manifest: an older layout, a missing file, or an unfinished upload."""

    @property
    def unfinished(self) -> bool:
        """Whether the upload is still running or was interrupted."""
        return self.manifest is None and CLAIM_FILE in self.files

    @property
    def spec(self) -> FormatSpec | None:
        """Format of the version, without a manifest judged by its files; None if unknown."""
        if self.manifest is not None:
            return FORMATS[self.manifest.format]
        onnx = FORMATS[Format.ONNX]  # the only format of versions that have no manifest
        return onnx if onnx.whole_file in self.files and not self.unfinished else None

    @property
    def gate(self) -> str:
        """Result of the gate: passed, failed, or unknown."""
        if self.manifest is None:
            return "unknown"
        return "passed" if self.manifest.passed else "failed"

    def metric(self, name: str) -> float | None:
        """Return a metric of the version; None if it is missing or NaN."""
        value = self.manifest.metrics.get(name) if self.manifest is not None else None
        return value if value == value else None


def find(store: VersionStore, number: int) -> Version:
    """Read a version.

    Raises:
        RepositoryError: there is no such version.
    """
    return _inspect(store, number, store.files(number))


def find_installed(store: VersionStore, number: int | None) -> Version | None:
    """Read a version; return None if the number is None or the version has no files."""
    files = store.files(number) if number is not None else {}
    return _inspect(store, number, files) if number is not None and files else None


def find_all(store: VersionStore) -> list[Version]:
    """Read every version, in ascending order."""
    return [find(store, number) for number in store.versions()]


def _inspect(store: VersionStore, number: int, files: dict[str, int]) -> Version:
    try:
        return Version(number=number, manifest=manifest_of(store, number), files=files)
    except RepositoryError as error:
        if not files and number not in store.versions():
            raise
        return Version(number=number, manifest=None, files=files, problem=error.problem)


def faults_of(store: VersionStore, version: Version) -> list[str]:
    """List the differences between a version's files and its manifest, one line each."""
    if version.manifest is None:
        return [str(version.problem)]
    if version.manifest.version != version.number:
        return [f"the manifest belongs to version {version.manifest.version}"]
    faults = []
    for name, entry in sorted(version.manifest.files.items()):
        if name not in version.files:
            faults.append(f"{name} is missing")
        elif version.files[name] != entry.bytes:
            faults.append(f"{name} has {version.files[name]:,} bytes, expected {entry.bytes:,}")
        elif store.sha256(version.number, name) != entry.sha256:
            faults.append(f"{name} does not match its SHA-256")
    return faults


@dataclass(frozen=True, slots=True)
class ProductionState:
    """What is in production, read once at the start of an operation; on S3 each read is a request."""

    record: Record
    config: Stored
    """The file config.pbtxt."""
    production: Version | None
    """Version that is labelled production; None if no version is, or if its files are missing."""

    @classmethod
    def read(cls, store: VersionStore) -> Self:
        """Read the state of a store.

        Raises:
            RepositoryError: labels.json is invalid.
        """
        record = Record.of(store)
        return cls(record, store.read(CONFIG_FILE), find_installed(store, record.labels.production))

    @property
    def labels(self) -> Labels:
        """Labels of the versions."""
        return self.record.labels

    @property
    def mismatch(self) -> str | None:
        """How config.pbtxt contradicts labels.json; None if they agree."""
        return pin_mismatch(self.labels, self.config)

    def version(self, store: VersionStore, number: int) -> Version:
        """Return a version; the one in production is not read again."""
        known = self.production
        return known if known is not None and known.number == number else find(store, number)

    def config_for(self, version: Version, *, gpu: bool | None = None) -> str:
        """Return the text of config.pbtxt that serves a version, by default on the processor in use."""
        assert version.spec is not None
        text = self.config.text or ""
        on_gpu = config_pbtxt.on_gpu(text) if gpu is None else gpu
        return config_pbtxt.pinned(text, version=version.number, spec=version.spec, gpu=on_gpu)

    def repair(self, store: VersionStore) -> list[str]:
        """Pin the version in production if config.pbtxt serves another one; return a note if it did."""
        if self.mismatch is None or self.production is None or self.production.spec is None:
            return []
        store.write(CONFIG_FILE, self.config_for(self.production), over=self.config)
        return [f"repaired: {self.mismatch}"]


def labelled(store: VersionStore) -> list[Version]:
    """Read the installed versions that a label names: production, the candidate, and those rollbacks would return to.

    Raises:
        RepositoryError: the labels are unreadable.
    """
    labels = Record.of(store).labels
    numbers = dict.fromkeys([labels.production, labels.candidate, *labels.earlier()])
    found = (find_installed(store, number) for number in numbers)
    return [version for version in found if version is not None]


def pin_mismatch(labels: Labels, config: Stored) -> str | None:
    """Return how config.pbtxt contradicts labels.json, or None if they agree."""
    pinned = config_pbtxt.pinned_versions(config.text or "")
    if labels.production is None or pinned == [labels.production]:
        return None
    serves = "version " + ", ".join(map(str, pinned)) if pinned else "no pinned version"
    return f"config.pbtxt serves {serves}, and version {labels.production} is in production"


def numbered(store: VersionStore, labels: Labels, name: str) -> int:
    """Return the number of a version that is given by its number or its label.

    Raises:
        RepositoryError: the name is neither, or no version has the label.
    """
    if name.isdecimal() and len(name) < 10:
        return int(name)
    if name not in ("production", "candidate"):
        raise RepositoryError("not a version", where=name, expected="a number, `candidate` or `production`")
    number: int | None = getattr(labels, name)
    if number is None:
        raise RepositoryError(
            f"no version is labelled {name}",
            where=store.location,
            fix="give a number; `reentry repository list` shows the versions",
        )
    return number


def row_of(version: Version, labels: Labels, metric: str, *, served_candidate: int | None = None) -> dict[str, Any]:
    """Return the row of a version in a list of versions, with the metric of that name."""
    manifest = version.manifest
    return {
        "version": version.number,
        "labels": labels_of(labels, version.number, served_candidate=served_candidate),
        "format": str(manifest.format) if manifest else None,
        "created": manifest.created if manifest else None,
        metric: version.metric(metric),
        "bytes": sum(version.files.values()),
        "gate": version.gate,
        "problem": version.problem,
    }


def differences(one: Manifest, other: Manifest) -> dict[str, tuple[Any, Any]]:
    """Return both values of every field in which two manifests differ, by path; None for a missing field."""
    left, right = _flat(asdict(one)), _flat(asdict(other))
    paths = [*left, *(path for path in right if path not in left)]
    return {path: (left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
