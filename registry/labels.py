"""Labels of the versions of a model, kept in labels.json: production, candidate, and the history of production."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from reentry.errors import RepositoryError
from reentry.schema import CANDIDATE_ENSEMBLE
from reentry.serving.repository import LARGEST_VERSION
from registry.store import LABELS_FILE, Stored, VersionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of the version in production."""

    version: int
    previous: int | None
    """Version that was in production before; None if there was none."""
    kind: Literal["promote", "rollback"]
    date: str
    """Time of the change, ISO 8601, UTC."""
    metric: float | None
    """`VersionedModel.metric` of the version; None if unknown."""
    previous_metric: float | None
    """`VersionedModel.metric` of the previous version; None if unknown."""
    reason: str | None = None
    """Reason that the user gave."""
    overridden: tuple[str, ...] = ()
    """Promotion rules that the version violated, and that the reason overrode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The labels of one model."""

    production: int | None = None
    candidate: int | None = None
    history: tuple[Change, ...] = ()
    """Changes of the version in production, oldest first."""

    def after(self, change: Change) -> Labels:
        """Return the labels after a change."""
        return replace(
            self,
            production=change.version,
            candidate=None if self.candidate == change.version else self.candidate,
            history=(*self.history, change),
        )

    def earlier(self) -> list[int]:
        """Return the versions that rollbacks would return to, the next one first.

        A rollback removes versions from this list, so that two rollbacks go back by two versions instead of
        alternating between two.
        """
        stack: list[int] = []  # the last one is in production
        for change in self.history:
            if change.kind == "rollback" and change.version in stack:
                del stack[stack.index(change.version) + 1 :]
                continue
            if change.version in stack:
                stack.remove(change.version)
            stack.append(change.version)
        return stack[-2::-1]

    def to_json(self) -> str:
        """Return the content of labels.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Parse the content of labels.json.

        Raises:
            RepositoryError: the content is invalid.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            history = tuple(_change(entry) for entry in content["history"])
            return cls(
                production=_number(content["production"]), candidate=_number(content["candidate"]), history=history
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RepositoryError(
                f"not a labels file of this program: {error}",
                where=where,
                fix="correct it, or remove it and promote the version that is served",
            ) from error


def _change(entry: dict[str, Any]) -> Change:
    change = Change(**entry | {"overridden": tuple(map(str, entry["overridden"]))})
    if change.kind not in ("promote", "rollback") or _number(change.version) is None:
        raise ValueError(f"not a change: {entry}")
    _number(change.previous)
    for metric in (change.metric, change.previous_metric):
        if metric is not None and (isinstance(metric, bool) or not isinstance(metric, int | float)):
            raise ValueError(f"not a metric: {metric}")
    for text in (change.date, change.reason):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"expected a string, got {text}")
    return change


def _number(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_VERSION:
        raise ValueError(f"not a version number: {value}")
    return value


@dataclass(frozen=True, slots=True)
class Record:
    """The labels of a store, together with the file that they were read from."""

    labels: Labels
    stored: Stored

    @classmethod
    def of(cls, store: VersionStore) -> Record:
        """Read the labels of a store; without a labels.json they are empty.

        Raises:
            RepositoryError: labels.json is invalid.
        """
        stored = store.read(LABELS_FILE)
        if stored.text is None:
            return cls(Labels(), stored)
        return cls(Labels.from_json(stored.text, where=store.place(LABELS_FILE)), stored)

    def replace(self, store: VersionStore, labels: Labels) -> None:
        """Write new labels in place of these.

        Raises:
            RepositoryError: another command changed the labels in the meantime.
        """
        if labels != self.labels:
            store.write(LABELS_FILE, labels.to_json(), over=self.stored)


def labels_of(labels: Labels, version: int, *, served_candidate: int | None = None) -> list[str]:
    """Return the names of a version's labels, and `served as reentry_candidate` for the served candidate."""
    names = [name for name in ("production", "candidate") if getattr(labels, name) == version]
    return [*names, f"served as {CANDIDATE_ENSEMBLE.name}"] if version == served_candidate else names
